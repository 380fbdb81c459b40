#include "parallel/cuda/gpu_link.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <iterator>

#include "parallel/message_rows.h"
#include "runtime/cuda/cuda_copy.h"

namespace longship {
namespace {

struct Place {
  int world_rank = 0;
  int host = 0;
};

std::vector<Place> places_of(const Group& hosts, const GpuComm& comm) {
  const Place own = {comm.world_rank, comm.host};
  std::vector<Place> places;
  for (const std::string& bytes : hosts.all_gather_bytes(
           "gpu.places", std::string(reinterpret_cast<const char*>(&own), sizeof own))) {
    Place place;
    LONGSHIP_CHECK(bytes.size() == sizeof place, "a place of {} bytes", bytes.size());
    std::memcpy(&place, bytes.data(), sizeof place);
    places.push_back(place);
  }
  return places;
}

std::string names_of_others(const std::vector<Place>& places, int own_rank) {
  std::string names;
  for (int rank = 0; const Place& place : places)
    if (rank++ != own_rank)
      names += fmt::format("{}rank {}", names.empty() ? "" : ", ", place.world_rank);
  return names + " of the job";
}

// Within the GPU. A kernel, as the engine for copies takes longer to begin: it pays for long runs.
void enqueue(const Tensor& from, const Tensor& to, const Stream& stream) {
  constexpr int64_t kLongRunBytes = int64_t{1} << 20;
  if (from.num_bytes() == 0 || from.address() == to.address()) return;
  const RowCopy rows = RowCopy::between(MessageRows::of(to), MessageRows::of(from));
  const CudaRowCopy copy = {to.address(),    rows.to_pitch,  from.address(),
                            rows.from_pitch, rows.row_bytes, rows.num_rows};
  if (copy.row_bytes >= kLongRunBytes)
    enqueue_row_copy(copy, stream.handle());
  else
    enqueue_row_copy_kernel(copy, stream.handle());
}

}  // namespace

std::shared_ptr<GpuLink> GpuLink::make(const Group& hosts, std::shared_ptr<GpuComm> comm,
                                       std::shared_ptr<const Stream> stream,
                                       const TransportChoice& choice) {
  std::shared_ptr<GpuLink> link(new GpuLink(hosts, std::move(comm), std::move(stream), choice));
  link->comm_->watch->add(link.get());
  return link;
}

GpuLink::GpuLink(const Group& hosts, std::shared_ptr<GpuComm> comm,
                 std::shared_ptr<const Stream> stream, const TransportChoice& choice)
    : hosts_(hosts),
      comm_(std::move(comm)),
      on_(std::make_shared<CommStream>(comm_->gpu, std::move(stream), comm_->watch->rescue(),
                                       comm_->failure)),
      choice_(choice),
      local_rank_(static_cast<size_t>(hosts.size()), -1),
      side_(comm_->gpu->device) {
  const std::vector<Place> places = places_of(hosts, *comm_);
  others_ = names_of_others(places, hosts_.rank());
  PeerCopies::Setup setup;
  setup.gpu = comm_->gpu;
  setup.memory = comm_->peer_memory;
  setup.failure = comm_->failure;
  bool on_one_host = true;
  for (size_t rank = 0; rank < places.size(); ++rank) {
    on_one_host &= places[rank].host == places[0].host;
    if (places[rank].host != comm_->host) continue;
    local_rank_[rank] = static_cast<int>(setup.world_ranks.size());
    setup.world_ranks.push_back(places[rank].world_rank);
  }
  if (choice.uses_peer_memory()) {
    setup.hosts = on_one_host ? hosts : hosts.split(comm_->host, hosts.rank());
    if (setup.hosts.size() > 1) copies_ = std::make_shared<PeerCopies>(std::move(setup));
  }
  if (choice.uses(Transport::kNccl) || !on_one_host) add_nccl();
}

GpuLink::~GpuLink() {
  const Stream& stream = *on_->stream;
  try {
    if (std::uncaught_exceptions() > 0 && !stream.record().has_passed())
      comm_->failure->set(std::make_exception_ptr(
          Error(ErrorCode::kInternal,
                {.what = fmt::format("{} has given up messages in flight after another error",
                                     comm_->failure->self())})));
    stream.synchronize();
  } catch (const Error&) {
    // The GPU is lost, and its streams do no more work.
  }
  comm_->watch->remove(this);
}

void GpuLink::add_nccl() {
  if (nccl_ != nullptr) return;
  auto nccl = std::make_shared<NcclCommunicator>(hosts_, others_, comm_->gpu, comm_->failure);
  std::lock_guard lock(mutex_);
  nccl_ = std::move(nccl);
}

void GpuLink::set_choice(const TransportChoice& choice) {
  stream().synchronize();
  hosts_.barrier("gpu.choice");
  choice_ = choice;
  std::lock_guard lock(mutex_);
  const bool on_one_host =
      std::find(local_rank_.begin(), local_rank_.end(), -1) == local_rank_.end();
  if (!choice.uses(Transport::kNccl) && on_one_host) nccl_ = nullptr;
  if (!choice.uses_peer_memory()) copies_ = nullptr;
}

const Stream& GpuLink::stream() {
  words_.enqueue(on_->stream->handle());
  return *on_->stream;
}

GpuLink::Routes GpuLink::routes_of(const TransportChoice& choice, std::vector<P2P> batch) const {
  Routes routes;
  for (P2P& message : batch) {
    if (message.tensor.num_bytes() == 0) continue;
    const int local = local_rank_[static_cast<size_t>(message.peer)];
    const bool by_nccl = copies_ == nullptr || local < 0 ||
                         choice.of(message.tensor.num_bytes()) == Transport::kNccl;
    if (!by_nccl) message.peer = local;
    (by_nccl ? routes.nccl : routes.peer).push_back(std::move(message));
  }
  return routes;
}

GpuLink::Packing GpuLink::pack(std::vector<P2P>& batch) const {
  Packing packing;
  for (P2P& message : batch) {
    if (message.tensor.is_contiguous()) continue;
    const Tensor packed =
        Tensor::empty(comm_->gpu->memory, message.tensor.shape(), message.tensor.dtype());
    const Tensor apart = std::exchange(message.tensor, packed);
    if (message.kind == P2P::Kind::kSend)
      packing.before.emplace_back(apart, packed);
    else
      packing.after.emplace_back(packed, apart);
  }
  return packing;
}

void GpuLink::copy_beside(const GpuOperation& operation, const TensorPairs& local) {
  constexpr int64_t kLongBytes = int64_t{1} << 20;  // that take longer than to fork and join
  TensorPairs others;
  WordOperations side_words;
  on_->words.wait(side_words, OperationWords::kBegun, operation.number());
  bool any_long = false;
  for (const auto& [from, to] : local) {
    if (from.num_bytes() < kLongBytes) {
      others.emplace_back(from, to);
      continue;
    }
    any_long = true;
    side_words.enqueue(side_.handle());
    enqueue(from, to, side_);
  }
  if (any_long) side_end_ = side_.record();
  copy(others);
}

void GpuLink::copy(const TensorPairs& pairs) {
  for (const auto& [from, to] : pairs) enqueue(from, to, stream());
}

std::shared_ptr<GpuOperation> GpuLink::begin(const TransportChoice& choice, Start start) {
  comm_->failure->throw_if_set();
  std::vector<Tensor> tensors = std::move(start.tensors);
  for (const P2P& message : start.batch) tensors.push_back(message.tensor);
  for (const auto& [from, to] : start.local) tensors.insert(tensors.end(), {from, to});
  for (const Tensor& tensor : tensors)
    LONGSHIP_CHECK(tensor.device() == comm_->gpu->device, "`{}`: a tensor on {}, sent by {}",
                   start.label, device_name(tensor.device()), comm_->failure->self());
  // Room is asked for before the operation begins, which orders its use.
  Routes routes = routes_of(choice, std::move(start.batch));
  const Packing packing = pack(routes.nccl);
  for (const auto& [from, packed] : packing.before) tensors.push_back(packed);
  for (const auto& [packed, to] : packing.after) tensors.push_back(packed);
  const auto operation = std::make_shared<GpuOperation>(
      on_, OperationName{std::string(start.label), ++num_operations_, hosts_.size()},
      std::move(tensors));
  try {
    // The compute stream itself lets the peers write: they need not wait for this group's stream.
    WordOperations first;
    on_->words.write(first, OperationWords::kBegun, operation->number());
    PeerCopies::Lanes lanes;
    if (!routes.peer.empty()) lanes = copies_->announce(routes.peer, first);
    first.enqueue(comm_->gpu->compute->handle());
    on_->words.wait(words_, OperationWords::kBegun, operation->number());
    copy_beside(*operation, start.local);
    copy(packing.before);
    if (!routes.nccl.empty()) nccl_->exchange(operation->name(), routes.nccl, stream());
    if (!routes.peer.empty())
      copies_->send(operation->name(), std::move(lanes), choice, words_, *on_->stream);
    copy(packing.after);
  } catch (const Error&) {
    comm_->failure->set(std::current_exception());  // what is enqueued must not wait for ever
    throw;
  }
  return operation;
}

void GpuLink::exchange(const GpuOperation& operation, std::vector<P2P> batch) {
  try {
    const Routes routes = routes_of(choice_, std::move(batch));
    PeerCopies::Lanes lanes;
    if (!routes.peer.empty()) lanes = copies_->announce(routes.peer, words_);
    if (!routes.nccl.empty()) nccl_->exchange(operation.name(), routes.nccl, stream());
    if (!routes.peer.empty())
      copies_->send(operation.name(), std::move(lanes), choice_, words_, *on_->stream);
  } catch (const Error&) {
    comm_->failure->set(std::current_exception());
    throw;
  }
}

Work GpuLink::end(std::shared_ptr<GpuOperation> operation) {
  if (side_end_) stream().wait(*side_end_);
  side_end_.reset();
  on_->words.write(words_, OperationWords::kEnded, operation->number());
  stream();
  std::lock_guard lock(mutex_);
  in_flight_.push_back(operation->name());
  return Work(std::move(operation));
}

void GpuLink::inspect(const Stream& rescue) {
  std::unique_lock lock(mutex_);
  if (nccl_ != nullptr) nccl_->check();
  if (in_flight_.empty()) return;
  lock.unlock();
  const OperationWords::Progress progress = on_->words.read(rescue);
  lock.lock();
  while (!in_flight_.empty() &&
         progress.has_come(OperationWords::kEnded, in_flight_.front().number))
    in_flight_.pop_front();
  if (in_flight_.empty() || !progress.has_come(OperationWords::kBegun, in_flight_.front().number))
    return;
  const OperationName first = in_flight_.front();
  if (std::exchange(running_, first.number) != first.number) running_since_ = Clock::now();
  const double waited_s = std::chrono::duration<double>(Clock::now() - running_since_).count();
  if (waited_s <= comm_->failure->timeout_s()) return;
  lock.unlock();
  throw comm_->failure->timeout(first.text(), missing(rescue));
}

std::string GpuLink::missing(const Stream& rescue) {
  std::unique_lock lock(mutex_);
  const auto copies = copies_;
  const bool has_nccl = nccl_ != nullptr;
  lock.unlock();
  std::string text = copies == nullptr ? "" : copies->missing(rescue);
  if (!text.empty()) return text;
  return has_nccl ? fmt::format("NCCL waits for {}", others_)
                  : fmt::format("all messages of {} have come, and the GPU is not done", others_);
}

void GpuLink::release(const Stream& rescue) noexcept {
  std::unique_lock lock(mutex_);
  const auto copies = copies_;
  const auto nccl = nccl_;
  lock.unlock();
  if (copies != nullptr) copies->release(rescue);
  if (nccl != nullptr) nccl->abort();
}

}  // namespace longship
