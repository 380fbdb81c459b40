// Group: a set of ranks that talk to each other, as a cheap value over MPI, GPUs or a single rank.
//
// Every operation is asynchronous and carries a label, under which the bytes that leave this rank
// are counted. All ranks of a group must issue the same operations in the same order, from one
// thread at a time; different groups may be used by different threads at once, but only one thread
// of a rank may split(). Tensors passed in must be contiguous, except in exchange(), and must not
// be changed (sends) or read (receives) before the operation's Work is done; until then the
// operation keeps them alive. Dtypes are any, unless an operation sums. Sums are taken in ascending
// rank order, so every rank gets the same bits in every run.
//
// Tensors on a GPU go from GPU to GPU where the group is that of a GpuRuntime; the tensors of one
// operation lie on one device. Such an operation begins after what the GPU's compute stream holds
// at the call, and runs beside what is enqueued there afterwards. The call itself may wait until
// the peers have made theirs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/reduce_op.h"
#include "runtime/tensor.h"

namespace longship {

// Completion of an asynchronous operation. Copies share the state; a default Work is done.
class Work {
 public:
  class State {
   public:
    virtual ~State() = default;
    virtual void wait() = 0;
    virtual bool done() = 0;
  };

  Work() = default;
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}

  // Blocks until the operation is complete. Throws Error(kTimeout) naming label, group and the
  // peers that did not answer when the group's deadline passes. On a GPU it is the compute stream
  // that waits, and the host goes on: what is enqueued there from now on may use the tensors. Then
  // a deadline that passes is reported by a later wait() or operation.
  void wait() {
    if (state_) state_->wait();
  }
  bool done() const { return !state_ || state_->done(); }

 private:
  std::shared_ptr<State> state_;
};

struct P2P {
  enum class Kind { kSend, kReceive };
  Kind kind;
  int peer;       // rank in the group; may be this rank itself
  Tensor tensor;  // contiguous behind dim 0; its rows may lie apart, as in x_THD.slice(1, 0, 2)

  static P2P send(int peer, Tensor tensor) { return {Kind::kSend, peer, std::move(tensor)}; }
  static P2P receive(int peer, Tensor tensor) { return {Kind::kReceive, peer, std::move(tensor)}; }
};

// What left this rank, by label, and how long it waited.
struct CommStats {
  struct Entry {
    int64_t num_calls = 0;
    int64_t sent_bytes = 0;  // payload to other ranks; nothing a rank keeps for itself
  };
  std::map<std::string, Entry, std::less<>> by_label;
  double wait_s = 0;  // of the host, in Work::wait()
  // Of a GPU's compute stream: it had done what it held, and what comes next waited for messages,
  // or the host, which has to enqueue it, waited for other ranks. Counted once the GPU is past it.
  double stream_wait_s = 0;

  // Which of them keeps a rank from computing on `device`: the host of a GPU runs ahead of it.
  double wait_s_of(DeviceKind device) const {
    return device == DeviceKind::kCuda ? stream_wait_s : wait_s;
  }
  int64_t sent_bytes(std::string_view label) const;
  int64_t total_sent_bytes() const;
};

class Group {
 public:
  class Backend;

  // The group of this rank alone: every collective is a local copy or nothing.
  static Group self();
  explicit Group(std::shared_ptr<Backend> backend) : backend_(std::move(backend)) {}

  int rank() const;
  int size() const;

  // Collective: ranks with the same color (>= 0) form a new group, ordered by (key, rank here). All
  // groups split from one parent share its CommStats.
  Group split(int color, int key) const;

  // A batch of sends and receives, all in flight at once. Messages between one pair match in the
  // order in which they are listed. A message is the elements in their order; where the rows (dim
  // 0) lie apart on one side, nobody need pack them. If they do on both, both have one shape.
  Work exchange(std::string_view label, std::vector<P2P> batch) const;

  // Rows (dim 0) [sum of send_rows[<r], + send_rows[r]) of `send` go to rank r; the rows from rank
  // r arrive at the matching place in `receive`. Counts all rows but those kept.
  Work all_to_all(std::string_view label, const Tensor& send, std::span<const int64_t> send_rows,
                  const Tensor& receive, std::span<const int64_t> receive_rows) const;

  // `receive` is the concatenation along dim 0 of every rank's `send`; rows[r] = rows of rank r.
  // Counts (size - 1) * bytes of `send`.
  Work all_gather(std::string_view label, const Tensor& send, const Tensor& receive,
                  std::span<const int64_t> rows) const;

  // Sums `send` (rows as in all_gather's receive) over ranks; rank r keeps its rows[r] rows in
  // `receive`. fp32 or fp64. Counts the bytes of `send` less the rows kept.
  Work reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                      std::span<const int64_t> rows) const;

  // In place. Sum: fp32, fp64, i32, i64; max and min likewise (a NaN wins). With n bytes in all,
  // counts (size - 1) * n up to 4 KiB. Beyond, with c bytes in this rank's chunk of elements
  // [N r / size, N (r + 1) / size), counts (n - c) + (size - 1) * c: about 2 n (size - 1) / size.
  Work all_reduce(std::string_view label, const Tensor& tensor, ReduceOp op = ReduceOp::kSum) const;

  // Counts (size - 1) * bytes at the root, nothing elsewhere.
  Work broadcast(std::string_view label, const Tensor& tensor, int root) const;

  // Blocks until every rank is here.
  void barrier(std::string_view label) const;

  // Host values, blocking: for control flow (counts, flags), not for tensors.
  int64_t all_reduce_value(std::string_view label, int64_t value, ReduceOp op) const;
  double all_reduce_value(std::string_view label, double value, ReduceOp op) const;
  // Every rank's bytes, in rank order. Lengths may differ.
  std::vector<std::string> all_gather_bytes(std::string_view label, const std::string& bytes) const;
  // The root's bytes; what other ranks pass is not read.
  std::string broadcast_bytes(std::string_view label, const std::string& bytes, int root) const;

  CommStats stats() const;
  void reset_stats() const;

 private:
  std::shared_ptr<Backend> backend_;
};

}  // namespace longship
