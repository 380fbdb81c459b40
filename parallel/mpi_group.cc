#include "parallel/mpi_group.h"

#include <algorithm>
#include <utility>

#include "parallel/all_reduce_plan.h"
#include "parallel/reduce_kernel.h"

namespace longship {
namespace {

// Every MPI library offers at least this tag. Operations so far apart are never in flight together.
constexpr int kNumTags = 32768;

MpiMessage message_of(const P2P& p2p) {
  return {p2p.kind, p2p.peer, p2p.tensor.raw(), p2p.tensor.num_bytes()};
}

LocalCopy copy_between(const Tensor& to, const Tensor& from) {
  return {to.raw(), from.raw(), RowCopy::between(MessageRows::of(to), MessageRows::of(from))};
}

// Rows that lie apart are packed in front of their message and unpacked behind it.
class ExchangeOperation final : public MpiOperation {
 public:
  ExchangeOperation(Identity identity, std::vector<P2P> batch,
                    std::vector<std::pair<Tensor, Tensor>> local)
      : MpiOperation(std::move(identity)), batch_(std::move(batch)), local_(std::move(local)) {
    for (P2P& p2p : batch_) {
      if (p2p.tensor.is_contiguous()) continue;
      const Tensor packed =
          Tensor::empty(p2p.tensor.memory(), p2p.tensor.shape(), p2p.tensor.dtype());
      const Tensor apart = std::exchange(p2p.tensor, packed);
      if (p2p.kind == P2P::Kind::kSend)
        packing_.emplace_back(apart, packed);
      else
        unpacking_.emplace_back(packed, apart);
    }
  }

  bool next_stage(MpiStage& stage) override {
    if (sent_) {
      copy(unpacking_);
      batch_.clear();
      local_.clear();
      return false;
    }
    sent_ = true;
    copy(packing_);
    for (const P2P& p2p : batch_) stage.messages.push_back(message_of(p2p));
    for (const auto& [from, to] : local_) stage.copies.push_back(copy_between(to, from));
    return true;
  }

 private:
  using Pairs = std::vector<std::pair<Tensor, Tensor>>;  // from, to

  static void copy(Pairs& pairs) {
    for (const auto& [from, to] : pairs) {
      const LocalCopy copy = copy_between(to, from);
      copy_rows(copy.to, copy.from, copy.rows);
    }
    pairs.clear();
  }

  std::vector<P2P> batch_;
  Pairs local_, packing_, unpacking_;
  bool sent_ = false;
};

// Reduces blocks of `send` over the ranks: every rank receives the other ranks' version of its own
// block, reduces them in rank order, and either keeps the result or sends it to everyone.
class ReduceOperation final : public MpiOperation {
 public:
  struct Plan {
    ReduceOp op = ReduceOp::kSum;
    Tensor send;                 // flat
    std::vector<int64_t> count;  // elements of `send` per rank; its blocks lie in rank order
    Tensor receive;              // flat: this rank's block, or all blocks if `gather`
    bool gather = false;         // whether every rank gets all reduced blocks
  };

  ReduceOperation(Identity identity, Plan plan)
      : MpiOperation(std::move(identity)),
        rank_(static_cast<size_t>(this->identity().communicator->rank)),
        plan_(std::move(plan)) {
    const Tensor& send = plan_.send;
    others_ = Tensor::empty(send.memory(), {std::ssize(plan_.count) - 1, plan_.count[rank_]},
                            send.dtype());
  }

  bool next_stage(MpiStage& stage) override {
    switch (stage_++) {
      case 0:
        scatter(stage);
        return true;
      case 1:
        reduce();
        others_ = Tensor();
        if (!plan_.gather) break;
        gather(stage);
        return true;
      default:
        break;
    }
    plan_.send = plan_.receive = Tensor();
    return false;
  }

 private:
  void scatter(MpiStage& stage) {
    int64_t begin = 0;
    for (size_t peer = 0; peer < plan_.count.size(); ++peer) {
      if (peer != rank_) {
        stage.messages.push_back(message_of(
            P2P::send(static_cast<int>(peer), plan_.send.slice(0, begin, plan_.count[peer]))));
        stage.messages.push_back(message_of(P2P::receive(static_cast<int>(peer), other(peer))));
      }
      begin += plan_.count[peer];
    }
  }

  void reduce() {
    std::vector<const std::byte*> sources;
    for (size_t peer = 0; peer < plan_.count.size(); ++peer)
      sources.push_back(peer == rank_ ? block_of(plan_.send, rank_).raw() : other(peer).raw());
    const Tensor out = plan_.gather ? block_of(plan_.receive, rank_) : plan_.receive;
    reduce_in_order(plan_.op, out.dtype(), out.raw(), sources, out.numel());
  }

  void gather(MpiStage& stage) {
    for (size_t peer = 0; peer < plan_.count.size(); ++peer) {
      if (peer == rank_) continue;
      const int p = static_cast<int>(peer);
      stage.messages.push_back(message_of(P2P::send(p, block_of(plan_.receive, rank_))));
      stage.messages.push_back(message_of(P2P::receive(p, block_of(plan_.receive, peer))));
    }
  }

  Tensor block_of(const Tensor& all, size_t rank) const {
    int64_t begin = 0;
    for (size_t r = 0; r < rank; ++r) begin += plan_.count[r];
    return all.slice(0, begin, plan_.count[rank]);
  }

  // The block received from another rank.
  Tensor other(size_t peer) const {
    const auto row = static_cast<int64_t>(peer < rank_ ? peer : peer - 1);
    return others_.slice(0, row, 1);
  }

  const size_t rank_;
  Plan plan_;
  Tensor others_;
  int stage_ = 0;
};

// All ranks get everything and reduce it alike.
class SmallAllReduceOperation final : public MpiOperation {
 public:
  SmallAllReduceOperation(Identity identity, ReduceOp op, const Tensor& tensor)
      : MpiOperation(std::move(identity)), op_(op), tensor_(tensor) {
    Shape shape = {this->identity().communicator->size(), tensor.numel()};
    all_ = Tensor::empty(tensor.memory(), std::move(shape), tensor.dtype());
  }

  bool next_stage(MpiStage& stage) override {
    if (!sent_) {
      sent_ = true;
      const int rank = identity().communicator->rank;
      for (int peer = 0; peer < identity().communicator->size(); ++peer) {
        if (peer == rank) continue;
        stage.messages.push_back(message_of(P2P::send(peer, tensor_)));
        stage.messages.push_back(message_of(P2P::receive(peer, all_.slice(0, peer, 1))));
      }
      return true;
    }
    std::vector<const std::byte*> sources;
    for (int peer = 0; peer < identity().communicator->size(); ++peer)
      sources.push_back(peer == identity().communicator->rank ? tensor_.raw()
                                                              : all_.slice(0, peer, 1).raw());
    reduce_in_order(op_, tensor_.dtype(), tensor_.raw(), sources, tensor_.numel());
    tensor_ = all_ = Tensor();
    return false;
  }

 private:
  const ReduceOp op_;
  Tensor tensor_;
  Tensor all_;
  bool sent_ = false;
};

}  // namespace

MpiBackend::MpiBackend(std::shared_ptr<MpiEngine> engine,
                       std::shared_ptr<const MpiCommunicator> communicator,
                       std::shared_ptr<CommRecorder> recorder)
    : Backend(communicator->rank, communicator->size(), std::move(recorder)),
      engine_(std::move(engine)),
      communicator_(std::move(communicator)) {}

MpiOperation::Identity MpiBackend::next_identity(std::string_view label, int64_t sent_bytes) {
  recorder().record_call(label, sent_bytes);
  const int tag = next_tag_;
  skip_operation();
  return {communicator_, shared_recorder(), std::string(label), tag};
}

void MpiBackend::skip_operation() {
  next_tag_ = (next_tag_ + 1) % kNumTags;
}

Work MpiBackend::submit(std::shared_ptr<MpiOperation> operation) {
  engine_->submit(operation);
  return Work(std::move(operation));
}

Work MpiBackend::exchange(std::string_view label, std::vector<P2P> batch) {
  auto local = take_local_messages(rank(), batch);
  auto identity = next_identity(label, bytes_to_others(rank(), batch));
  return submit(
      std::make_shared<ExchangeOperation>(std::move(identity), std::move(batch), std::move(local)));
}

Work MpiBackend::reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                                std::span<const int64_t> rows) {
  const int64_t row_elements = send.dim(0) == 0 ? 0 : send.numel() / send.dim(0);
  std::vector<int64_t> count;
  for (int64_t num_rows : rows) count.push_back(num_rows * row_elements);
  return submit(std::make_shared<ReduceOperation>(
      next_identity(label, send.num_bytes() - receive.num_bytes()),
      ReduceOperation::Plan{.op = ReduceOp::kSum,
                            .send = send.reshape({-1}),
                            .count = std::move(count),
                            .receive = receive.reshape({-1})}));
}

Work MpiBackend::all_reduce(std::string_view label, const Tensor& tensor, ReduceOp op) {
  const Tensor flat = tensor.reshape({-1});
  AllReducePlan plan = all_reduce_plan(rank(), size(), flat.numel(), dtype_size(tensor.dtype()));
  MpiOperation::Identity identity = next_identity(label, plan.sent_bytes);
  if (plan.is_small)
    return submit(std::make_shared<SmallAllReduceOperation>(std::move(identity), op, flat));
  return submit(std::make_shared<ReduceOperation>(
      std::move(identity), ReduceOperation::Plan{.op = op,
                                                 .send = flat,
                                                 .count = std::move(plan.count),
                                                 .receive = flat,
                                                 .gather = true}));
}

std::shared_ptr<MpiBackend> MpiBackend::split_mpi(int color, int key) {
  // Once everyone's wish has arrived, every rank is in this call, so MPI_Comm_split keeps the
  // engine from other work only for as long as it takes.
  const auto memory = std::make_shared<Memory>();
  const Tensor wishes = Tensor::zeros(memory, {size(), 3}, DType::kI32);  // color, key, world rank
  int32_t* own = wishes.slice(0, rank(), 1).data<int32_t>();
  own[0] = color, own[1] = key, own[2] = communicator_->world_ranks[static_cast<size_t>(rank())];
  std::vector<P2P> batch;
  for (int peer = 0; peer < size(); ++peer) {
    if (peer == rank()) continue;
    batch.push_back(P2P::send(peer, wishes.slice(0, rank(), 1)));
    batch.push_back(P2P::receive(peer, wishes.slice(0, peer, 1)));
  }
  exchange("group.split", std::move(batch)).wait();

  std::vector<std::pair<int, int>> members;  // (key, world rank); parent order breaks ties
  for (int peer = 0; peer < size(); ++peer) {
    const int32_t* wish = wishes.slice(0, peer, 1).data<int32_t>();
    if (wish[0] == color) members.emplace_back(wish[1], wish[2]);
  }
  std::stable_sort(members.begin(), members.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  auto child = std::make_shared<MpiCommunicator>();
  child->timeout_s = communicator_->timeout_s;
  for (const auto& [member_key, world_rank] : members) child->world_ranks.push_back(world_rank);
  engine_->run([&] {
    check_mpi(MPI_Comm_split(communicator_->handle, color, key, &child->handle), "MPI_Comm_split");
    engine_->adopt(child->handle);
    check_mpi(MPI_Comm_set_errhandler(child->handle, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(child->handle, &child->rank), "MPI_Comm_rank");
  });
  return std::make_shared<MpiBackend>(engine_, std::move(child), shared_recorder());
}

}  // namespace longship
