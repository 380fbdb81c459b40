#include "parallel/cuda/gpu_link.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <iterator>

#include "parallel/message_rows.h"
#include "runtime/cuda/cuda_copy.h"
#include "runtime/seconds_since.h"

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
      stream_(std::move(stream)),
      choice_(choice),
      local_rank_(static_cast<size_t>(hosts.size()), -1),
      side_(comm_->gpu->device) {
  const std::vector<Place> places = places_of(hosts, *comm_);
  others_ = names_of_others(places, hosts_.rank());
  PeerCopies::Setup setup;
  setup.gpu = comm_->gpu;
  setup.memory = comm_->peer_memory;
  setup.failure = comm_->failure;
  setup.waits = comm_->waits;
  bool on_one_host = true;
  for (size_t rank = 0; rank < places.size(); ++rank) {
    on_one_host &= places[rank].host == places[0].host;
    if (places[rank].host != comm_->host) continue;
    local_rank_[rank] = static_cast<int>(setup.world_ranks.size());
    setup.world_ranks.push_back(places[rank].world_rank);
  }
  if (choice.uses(Transport::kPeerCopies)) {
    setup.hosts = on_one_host ? hosts : hosts.split(comm_->host, hosts.rank());
    if (setup.hosts.size() > 1) copies_ = std::make_shared<PeerCopies>(std::move(setup));
  }
  if (choice.uses(Transport::kNccl) || !on_one_host) add_nccl();
}

GpuLink::~GpuLink() {
  try {
    if (std::uncaught_exceptions() > 0 && !stream_->record().has_passed())
      comm_->failure->set(std::make_exception_ptr(
          Error(ErrorCode::kInternal,
                {.what = fmt::format("{} has given up messages in flight after another error",
                                     comm_->failure->self())})));
    stream_->synchronize();
  } catch (const Error&) {
    // The GPU is lost, and its streams do no more work.
  }
  comm_->watch->remove(this);
}

void GpuLink::add_nccl() {
  if (nccl_ != nullptr) return;
  auto nccl =
      std::make_shared<NcclCommunicator>(hosts_, others_, comm_->gpu, comm_->failure, comm_->waits);
  std::lock_guard lock(mutex_);
  nccl_ = std::move(nccl);
}

void GpuLink::set_choice(const TransportChoice& choice) {
  stream_->synchronize();
  hosts_.barrier("gpu.choice");
  choice_ = choice;
  std::lock_guard lock(mutex_);
  const bool on_one_host =
      std::find(local_rank_.begin(), local_rank_.end(), -1) == local_rank_.end();
  if (!choice.uses(Transport::kNccl) && on_one_host) nccl_ = nullptr;
  if (!choice.uses(Transport::kPeerCopies)) copies_ = nullptr;
}

std::shared_ptr<GpuOperation> GpuLink::begin(std::string_view label, std::vector<Tensor> tensors) {
  comm_->failure->throw_if_set();
  for (const Tensor& tensor : tensors)
    LONGSHIP_CHECK(tensor.device() == comm_->gpu->device, "`{}`: a tensor on {}, sent by {}", label,
                   device_name(tensor.device()), comm_->failure->self());
  auto operation = std::make_shared<GpuOperation>(
      CommStream{comm_->gpu, stream_, comm_->failure, comm_->waits},
      fmt::format("`{}` (operation {} between GPUs of a group of {})", label, num_operations_++,
                  hosts_.size()));
  operation->begin(std::move(tensors));
  return operation;
}

bool GpuLink::is_by_peer_copy(const TransportChoice& choice, const P2P& message) const {
  return copies_ != nullptr && local_rank_[static_cast<size_t>(message.peer)] >= 0 &&
         choice.of(message.tensor.num_bytes()) == Transport::kPeerCopies;
}

GpuLink::Packing GpuLink::pack(std::vector<P2P>& batch) const {
  Packing packing;
  for (P2P& message : batch) {
    if (message.tensor.is_contiguous() || is_by_peer_copy(choice_, message)) continue;
    const Tensor room =
        Tensor::empty(comm_->gpu->memory, message.tensor.shape(), message.tensor.dtype());
    const Tensor apart = std::exchange(message.tensor, room);
    if (message.kind == P2P::Kind::kSend)
      packing.before.emplace_back(apart, room);
    else
      packing.after.emplace_back(room, apart);
  }
  return packing;
}

void GpuLink::copy_beside(const GpuOperation& operation, const TensorPairs& local) {
  constexpr int64_t kLongBytes = int64_t{1} << 20;  // that take longer than events to fork and join
  TensorPairs others;
  bool any_long = false;
  for (const auto& [from, to] : local) {
    if (from.num_bytes() < kLongBytes) {
      others.emplace_back(from, to);
      continue;
    }
    if (!std::exchange(any_long, true)) side_.wait(operation.progress()->begin);
    enqueue(from, to, side_);
  }
  if (any_long) side_end_ = side_.record();
  copy(others);
}

void GpuLink::copy(const TensorPairs& pairs) {
  for (const auto& [from, to] : pairs) enqueue(from, to, *stream_);
}

void GpuLink::exchange(const TransportChoice& choice, const GpuOperation& operation,
                       std::vector<P2P> batch) {
  std::vector<P2P> copied, sent;
  for (P2P& message : batch) {
    if (message.tensor.num_bytes() == 0) continue;
    const bool is_copied = is_by_peer_copy(choice, message);
    if (is_copied) message.peer = local_rank_[static_cast<size_t>(message.peer)];
    (is_copied ? copied : sent).push_back(std::move(message));
  }
  try {
    if (!sent.empty()) nccl_->exchange(operation.name(), sent, *stream_);
    if (!copied.empty()) copies_->exchange(operation.name(), copied, *stream_);
  } catch (const Error&) {
    comm_->failure->set(std::current_exception());  // what is enqueued must not wait for ever
    throw;
  }
}

Work GpuLink::end(std::shared_ptr<GpuOperation> operation) {
  stream_->wait(std::exchange(side_end_, Event()));
  operation->end();
  std::lock_guard lock(mutex_);
  in_flight_.push_back(operation->progress());
  return Work(std::move(operation));
}

void GpuLink::inspect(const Stream& rescue) {
  // Events are many and take the driver long: what is done is found by halving, and destroyed
  // without the lock that end() takes.
  std::vector<std::shared_ptr<const OperationProgress>> done;
  std::unique_lock lock(mutex_);
  const auto first_left =
      std::partition_point(in_flight_.begin(), in_flight_.end(),
                           [](const auto& operation) { return operation->end.has_passed(); });
  if (first_left != in_flight_.begin()) running_ = nullptr;
  done.assign(std::make_move_iterator(in_flight_.begin()), std::make_move_iterator(first_left));
  in_flight_.erase(in_flight_.begin(), first_left);
  if (nccl_ != nullptr) nccl_->check();
  if (in_flight_.empty() || !in_flight_.front()->begin.has_passed()) return;
  const auto first = in_flight_.front();
  if (running_ == nullptr) running_since_ = Clock::now();
  running_ = first.get();
  const double waited_s = seconds_since(running_since_);
  if (waited_s <= comm_->failure->timeout_s()) return;
  lock.unlock();
  throw comm_->failure->timeout(first->name, missing(rescue));
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
