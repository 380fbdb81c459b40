// Group::Backend: what a transport implements. Group checks the arguments and builds the other
// operations from these.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "parallel/comm_recorder.h"
#include "parallel/group.h"

namespace longship {

class Group::Backend {
 public:
  Backend(int rank, int size, std::shared_ptr<CommRecorder> recorder)
      : rank_(rank), size_(size), recorder_(std::move(recorder)) {}
  virtual ~Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  CommRecorder& recorder() const { return *recorder_; }
  const std::shared_ptr<CommRecorder>& shared_recorder() const { return recorder_; }

  virtual std::shared_ptr<Backend> split(int color, int key) = 0;

  // These record their bytes and act as documented in Group. Tensors are contiguous, or have
  // contiguous rows in exchange(); peers and row counts are in range, dtypes and shapes agree.
  virtual Work exchange(std::string_view label, std::vector<P2P> batch) = 0;
  virtual Work reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                              std::span<const int64_t> rows) = 0;
  virtual Work all_reduce(std::string_view label, const Tensor& tensor, ReduceOp op) = 0;

  // Adds to the counters what has become known by itself.
  virtual void settle_counters() {}

 private:
  int rank_;
  int size_;
  std::shared_ptr<CommRecorder> recorder_;
};

// The bytes of a batch that leave this rank.
int64_t bytes_to_others(int rank, const std::vector<P2P>& batch);

// Pairs the messages that a rank sends to itself with those it receives from itself, in the order
// of listing, as (from, to), and takes them out of `batch`.
std::vector<std::pair<Tensor, Tensor>> take_local_messages(int rank, std::vector<P2P>& batch);

// Copies one of them as Tensor::copy_from() does: on the host at once, on a GPU on the stream of
// its memory.
void copy_local_message(const Tensor& to, const Tensor& from);

}  // namespace longship
