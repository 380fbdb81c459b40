#include "parallel/group.h"

#include <cstring>
#include <deque>
#include <numeric>

#include "parallel/group_backend.h"
#include "parallel/message_rows.h"
#include "parallel/self_group.h"

namespace longship {
namespace {

void check_contiguous(std::string_view label, const char* role, const Tensor& tensor) {
  LONGSHIP_CHECK(tensor.defined() && tensor.is_contiguous(),
                 "`{}`: the {} tensor must be defined and contiguous", label, role);
}

// The rows of `tensor` must be the sum of `rows`, one count per rank.
void check_rows(std::string_view label, const char* role, const Tensor& tensor,
                std::span<const int64_t> rows, int num_ranks) {
  check_contiguous(label, role, tensor);
  LONGSHIP_CHECK(std::ssize(rows) == num_ranks, "`{}`: {} {} row counts for {} ranks", label,
                 rows.size(), role, num_ranks);
  int64_t total = 0;
  for (int64_t count : rows) {
    LONGSHIP_CHECK(count >= 0, "`{}`: negative {} row count {}", label, role, count);
    total += count;
  }
  LONGSHIP_CHECK(tensor.rank() >= 1 && tensor.dim(0) == total,
                 "`{}`: the {} tensor has shape {}, its row counts sum to {}", label, role,
                 shape_string(tensor.shape()), total);
}

void check_same_rows(std::string_view label, const Tensor& send, const Tensor& receive) {
  LONGSHIP_CHECK(send.dtype() == receive.dtype(), "`{}`: sends {}, receives {}", label,
                 dtype_name(send.dtype()), dtype_name(receive.dtype()));
  LONGSHIP_CHECK(
      send.rank() == receive.rank() &&
          std::equal(send.shape().begin() + 1, send.shape().end(), receive.shape().begin() + 1),
      "`{}`: rows of {} and of {} differ", label, shape_string(send.shape()),
      shape_string(receive.shape()));
}

void check_summable(std::string_view label, const Tensor& tensor) {
  LONGSHIP_CHECK(tensor.dtype() != DType::kBF16 && tensor.dtype() != DType::kU8,
                 "`{}`: {} cannot be reduced", label, dtype_name(tensor.dtype()));
}

}  // namespace

int64_t bytes_to_others(int rank, const std::vector<P2P>& batch) {
  int64_t bytes = 0;
  for (const P2P& message : batch)
    if (message.kind == P2P::Kind::kSend && message.peer != rank)
      bytes += message.tensor.num_bytes();
  return bytes;
}

std::vector<std::pair<Tensor, Tensor>> take_local_messages(int rank, std::vector<P2P>& batch) {
  std::deque<Tensor> sends, receives;
  std::vector<P2P> remote;
  for (P2P& message : batch) {
    if (message.peer != rank)
      remote.push_back(std::move(message));
    else
      (message.kind == P2P::Kind::kSend ? sends : receives).push_back(std::move(message.tensor));
  }
  LONGSHIP_CHECK(sends.size() == receives.size(),
                 "rank {} sends {} messages to itself and receives {}", rank, sends.size(),
                 receives.size());
  batch = std::move(remote);
  std::vector<std::pair<Tensor, Tensor>> pairs;
  for (size_t i = 0; i < sends.size(); ++i) {
    const bool fits = sends[i].dtype() == receives[i].dtype() &&
                      sends[i].numel() == receives[i].numel() &&
                      (sends[i].is_contiguous() || receives[i].is_contiguous() ||
                       sends[i].shape() == receives[i].shape());
    LONGSHIP_CHECK(fits, "rank {} sends {} {} to itself and receives {} {}", rank,
                   dtype_name(sends[i].dtype()), shape_string(sends[i].shape()),
                   dtype_name(receives[i].dtype()), shape_string(receives[i].shape()));
    pairs.emplace_back(std::move(sends[i]), std::move(receives[i]));
  }
  return pairs;
}

void copy_local_message(const Tensor& to, const Tensor& from) {
  if (to.is_contiguous()) {
    to.reshape(from.shape()).copy_from(from);
  } else {
    to.copy_from(from.is_contiguous() ? from.reshape(to.shape()) : from);
  }
}

Group Group::self() {
  return Group(std::make_shared<SelfBackend>(std::make_shared<CommRecorder>()));
}

int Group::rank() const {
  return backend_->rank();
}

int Group::size() const {
  return backend_->size();
}

Group Group::split(int color, int key) const {
  LONGSHIP_CHECK(color >= 0, "split with color {}", color);
  return Group(backend_->split(color, key));
}

Work Group::exchange(std::string_view label, std::vector<P2P> batch) const {
  for (const P2P& message : batch) {
    LONGSHIP_CHECK(message.tensor.defined() && has_contiguous_rows(message.tensor),
                   "`{}`: the {} tensor must be defined and its rows contiguous", label,
                   message.kind == P2P::Kind::kSend ? "sent" : "received");
    LONGSHIP_CHECK(message.peer >= 0 && message.peer < size(), "`{}`: peer {} in a group of {}",
                   label, message.peer, size());
  }
  return backend_->exchange(label, std::move(batch));
}

Work Group::all_to_all(std::string_view label, const Tensor& send,
                       std::span<const int64_t> send_rows, const Tensor& receive,
                       std::span<const int64_t> receive_rows) const {
  check_rows(label, "sent", send, send_rows, size());
  check_rows(label, "received", receive, receive_rows, size());
  check_same_rows(label, send, receive);
  std::vector<P2P> batch;
  int64_t send_row = 0, receive_row = 0;
  for (int peer = 0; peer < size(); ++peer) {
    const auto p = static_cast<size_t>(peer);
    batch.push_back(P2P::send(peer, send.slice(0, send_row, send_rows[p])));
    batch.push_back(P2P::receive(peer, receive.slice(0, receive_row, receive_rows[p])));
    send_row += send_rows[p];
    receive_row += receive_rows[p];
  }
  return backend_->exchange(label, std::move(batch));
}

Work Group::all_gather(std::string_view label, const Tensor& send, const Tensor& receive,
                       std::span<const int64_t> rows) const {
  check_rows(label, "received", receive, rows, size());
  check_contiguous(label, "sent", send);
  check_same_rows(label, send, receive);
  LONGSHIP_CHECK(send.dim(0) == rows[static_cast<size_t>(rank())],
                 "`{}`: rank {} sends {} rows, announced {}", label, rank(), send.dim(0),
                 rows[static_cast<size_t>(rank())]);
  std::vector<P2P> batch;
  int64_t row = 0;
  for (int peer = 0; peer < size(); ++peer) {
    const int64_t count = rows[static_cast<size_t>(peer)];
    batch.push_back(P2P::send(peer, send));
    batch.push_back(P2P::receive(peer, receive.slice(0, row, count)));
    row += count;
  }
  return backend_->exchange(label, std::move(batch));
}

Work Group::reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                           std::span<const int64_t> rows) const {
  check_rows(label, "sent", send, rows, size());
  check_contiguous(label, "received", receive);
  check_same_rows(label, send, receive);
  LONGSHIP_CHECK(send.dtype() == DType::kF32 || send.dtype() == DType::kF64,
                 "`{}`: {} cannot be summed", label, dtype_name(send.dtype()));
  LONGSHIP_CHECK(receive.dim(0) == rows[static_cast<size_t>(rank())],
                 "`{}`: rank {} receives {} rows, announced {}", label, rank(), receive.dim(0),
                 rows[static_cast<size_t>(rank())]);
  return backend_->reduce_scatter(label, send, receive, rows);
}

Work Group::all_reduce(std::string_view label, const Tensor& tensor, ReduceOp op) const {
  check_contiguous(label, "reduced", tensor);
  check_summable(label, tensor);
  return backend_->all_reduce(label, tensor, op);
}

Work Group::broadcast(std::string_view label, const Tensor& tensor, int root) const {
  check_contiguous(label, "broadcast", tensor);
  LONGSHIP_CHECK(root >= 0 && root < size(), "`{}`: root {} in a group of {}", label, root, size());
  std::vector<P2P> batch;
  if (rank() != root) batch.push_back(P2P::receive(root, tensor));
  for (int peer = 0; rank() == root && peer < size(); ++peer)
    if (peer != root) batch.push_back(P2P::send(peer, tensor));
  return backend_->exchange(label, std::move(batch));
}

void Group::barrier(std::string_view label) const {
  all_reduce_value(label, int64_t{0}, ReduceOp::kSum);
}

int64_t Group::all_reduce_value(std::string_view label, int64_t value, ReduceOp op) const {
  const Tensor tensor =
      Tensor::from(std::make_shared<Memory>(), {1}, std::span<const int64_t>(&value, 1));
  all_reduce(label, tensor, op).wait();
  return *tensor.data<int64_t>();
}

double Group::all_reduce_value(std::string_view label, double value, ReduceOp op) const {
  const Tensor tensor =
      Tensor::from(std::make_shared<Memory>(), {1}, std::span<const double>(&value, 1));
  all_reduce(label, tensor, op).wait();
  return *tensor.data<double>();
}

std::vector<std::string> Group::all_gather_bytes(std::string_view label,
                                                 const std::string& bytes) const {
  const auto memory = std::make_shared<Memory>();
  const auto num_ranks = static_cast<size_t>(size());
  const int64_t own_length = std::ssize(bytes);
  const Tensor length = Tensor::from(memory, {1}, std::span<const int64_t>(&own_length, 1));
  const Tensor lengths = Tensor::empty(memory, {size()}, DType::kI64);
  all_gather(label, length, lengths, std::vector<int64_t>(num_ranks, 1)).wait();

  const std::span<const int64_t> rows(lengths.data<int64_t>(), num_ranks);
  const Tensor own = Tensor::empty(memory, {own_length}, DType::kU8);
  std::memcpy(own.raw(), bytes.data(), bytes.size());
  const Tensor all =
      Tensor::empty(memory, {std::accumulate(rows.begin(), rows.end(), int64_t{0})}, DType::kU8);
  all_gather(label, own, all, rows).wait();

  std::vector<std::string> result;
  const char* next = reinterpret_cast<const char*>(all.raw());
  for (int64_t count : rows) {
    result.emplace_back(next, static_cast<size_t>(count));
    next += count;
  }
  return result;
}

std::string Group::broadcast_bytes(std::string_view label, const std::string& bytes,
                                   int root) const {
  const auto memory = std::make_shared<Memory>();
  const int64_t own_length = std::ssize(bytes);
  const Tensor length = Tensor::from(memory, {1}, std::span<const int64_t>(&own_length, 1));
  broadcast(label, length, root).wait();
  const Tensor text = Tensor::empty(memory, {*length.data<int64_t>()}, DType::kU8);
  if (rank() == root) std::memcpy(text.raw(), bytes.data(), bytes.size());
  broadcast(label, text, root).wait();
  return std::string(reinterpret_cast<const char*>(text.raw()),
                     static_cast<size_t>(text.num_bytes()));
}

CommStats Group::stats() const {
  backend_->settle_counters();
  return backend_->recorder().snapshot();
}

void Group::reset_stats() const {
  backend_->settle_counters();
  backend_->recorder().reset();
}

}  // namespace longship
