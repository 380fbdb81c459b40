#include "parallel/cuda/gpu_group.h"

#include <numeric>

#include "parallel/all_reduce_plan.h"
#include "parallel/cuda/reduce_cuda.h"

namespace longship {
namespace {

bool is_on_gpu(const Tensor& tensor) {
  return tensor.device().kind == DeviceKind::kCuda;
}

class HostOperation final : public Work::State {
 public:
  HostOperation(Work work, std::shared_ptr<StreamWaits> waits)
      : work_(std::move(work)), waits_(std::move(waits)) {}

  void wait() override {
    if (work_.done()) return work_.wait();
    Event since = waits_->compute().record_time();
    work_.wait();
    waits_->count(std::move(since), std::make_shared<Event>(waits_->compute().record_time()));
  }
  bool done() override { return work_.done(); }

 private:
  Work work_;
  const std::shared_ptr<StreamWaits> waits_;
};

Tensor block(const Tensor& flat, std::span<const int64_t> count, int rank) {
  const auto r = static_cast<size_t>(rank);
  const int64_t begin = std::accumulate(count.begin(), count.begin() + rank, int64_t{0});
  return flat.slice(0, begin, count[r]);
}

}  // namespace

GpuBackend::GpuBackend(std::shared_ptr<MpiBackend> hosts, std::shared_ptr<GpuComm> comm,
                       std::shared_ptr<GpuLink> link)
    : Backend(hosts->rank(), hosts->size(), hosts->shared_recorder()),
      hosts_(std::move(hosts)),
      comm_(std::move(comm)),
      link_(std::move(link)) {}

std::shared_ptr<Group::Backend> GpuBackend::split(int color, int key) {
  comm_->failure->throw_if_set();
  const auto hosts = hosts_->split_mpi(color, key);
  std::shared_ptr<GpuLink> link;
  if (hosts->size() > 1)
    link = GpuLink::make(Group(hosts), comm_,
                         std::make_shared<Stream>(comm_->gpu->device, StreamPriority::kHigh),
                         comm_->choice);
  return std::make_shared<GpuBackend>(hosts, comm_, std::move(link));
}

void GpuBackend::settle_counters() {
  recorder().record_stream_wait(comm_->waits->take_s());
}

Work GpuBackend::watched(Work between_hosts) const {
  if (between_hosts.done()) return between_hosts;
  return Work(std::make_shared<HostOperation>(std::move(between_hosts), comm_->waits));
}

Work GpuBackend::exchange(std::string_view label, std::vector<P2P> batch) {
  // A rank without a message does not know on which side the others are.
  if (batch.empty() || !is_on_gpu(batch[0].tensor))
    return watched(hosts_->exchange(label, std::move(batch)));
  hosts_->skip_operation();
  recorder().record_call(label, bytes_to_others(rank(), batch));
  const TensorPairs local = take_local_messages(rank(), batch);
  if (link_ == nullptr) {
    for (const auto& [from, to] : local) copy_local_message(to, from);
    return Work();
  }
  const GpuLink::Packing packing = link_->pack(batch);
  std::vector<Tensor> tensors;
  for (const P2P& message : batch) tensors.push_back(message.tensor);
  for (const TensorPairs* pairs : {&local, &packing.before, &packing.after})
    for (const auto& [from, to] : *pairs) {
      tensors.push_back(from);
      tensors.push_back(to);
    }
  auto operation = link_->begin(label, std::move(tensors));
  link_->copy_beside(*operation, local);
  link_->copy(packing.before);
  link_->exchange(*operation, std::move(batch));
  link_->copy(packing.after);
  return link_->end(std::move(operation));
}

Tensor GpuBackend::room_for_others(int64_t num_elements, DType dtype) const {
  constexpr int64_t kPadBytes = 128;
  const int64_t pad = kPadBytes / dtype_size(dtype);
  const int64_t padded = (num_elements + pad - 1) / pad * pad;
  return Tensor::empty(comm_->gpu->memory, {size() - 1, padded}, dtype);
}

P2P GpuBackend::receive_from(int peer, const Tensor& others, int64_t num_elements) const {
  const int64_t row = peer < rank() ? peer : peer - 1;
  return P2P::receive(peer, others.slice(0, row, 1).slice(1, 0, num_elements));
}

std::vector<P2P> GpuBackend::scatter(const Tensor& send, std::span<const int64_t> count,
                                     const Tensor& others) const {
  std::vector<P2P> batch;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    batch.push_back(P2P::send(peer, block(send, count, peer)));
    batch.push_back(receive_from(peer, others, count[static_cast<size_t>(rank())]));
  }
  return batch;
}

void GpuBackend::reduce(ReduceOp op, const Tensor& own, const Tensor& others,
                        const Tensor& out) const {
  if (out.numel() == 0) return;
  rank_reduce_cuda({.op = op,
                    .dtype = out.dtype(),
                    .num_elements = out.numel(),
                    .rank = rank(),
                    .num_ranks = size(),
                    .own = own.address(),
                    .others = others.address(),
                    .others_stride = others.dim(1),
                    .out = out.address()},
                   link_->stream()->handle());
}

Work GpuBackend::reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                                std::span<const int64_t> rows) {
  if (!is_on_gpu(send)) return watched(hosts_->reduce_scatter(label, send, receive, rows));
  hosts_->skip_operation();
  recorder().record_call(label, send.num_bytes() - receive.num_bytes());
  if (link_ == nullptr) {
    receive.copy_from(send);
    return Work();
  }
  const int64_t row_elements = send.dim(0) == 0 ? 0 : send.numel() / send.dim(0);
  std::vector<int64_t> count;
  for (int64_t num_rows : rows) count.push_back(num_rows * row_elements);
  const Tensor flat = send.reshape({-1});
  const Tensor others = room_for_others(receive.numel(), send.dtype());
  auto operation = link_->begin(label, {send, receive, others});
  link_->exchange(*operation, scatter(flat, count, others));
  reduce(ReduceOp::kSum, block(flat, count, rank()), others, receive);
  return link_->end(std::move(operation));
}

Work GpuBackend::all_reduce(std::string_view label, const Tensor& tensor, ReduceOp op) {
  if (!is_on_gpu(tensor)) return watched(hosts_->all_reduce(label, tensor, op));
  hosts_->skip_operation();
  const Tensor flat = tensor.reshape({-1});
  const AllReducePlan plan =
      all_reduce_plan(rank(), size(), flat.numel(), dtype_size(tensor.dtype()));
  recorder().record_call(label, plan.sent_bytes);
  if (link_ == nullptr) return Work();

  const int64_t received = plan.is_small ? flat.numel() : plan.count[static_cast<size_t>(rank())];
  const Tensor others = room_for_others(received, tensor.dtype());
  auto operation = link_->begin(label, {tensor, others});
  std::vector<P2P> batch;
  if (plan.is_small) {
    for (int peer = 0; peer < size(); ++peer) {
      if (peer == rank()) continue;
      batch.push_back(P2P::send(peer, flat));
      batch.push_back(receive_from(peer, others, received));
    }
    link_->exchange(*operation, std::move(batch));
    reduce(op, flat, others, flat);
    return link_->end(std::move(operation));
  }
  link_->exchange(*operation, scatter(flat, plan.count, others));
  const Tensor own = block(flat, plan.count, rank());
  reduce(op, own, others, own);
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    batch.push_back(P2P::send(peer, own));
    batch.push_back(P2P::receive(peer, block(flat, plan.count, peer)));
  }
  link_->exchange(*operation, std::move(batch));
  return link_->end(std::move(operation));
}

}  // namespace longship
