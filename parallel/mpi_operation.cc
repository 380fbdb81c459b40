#include "parallel/mpi_operation.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <thread>

#include "runtime/seconds_since.h"

namespace longship {
namespace {

using Clock = std::chrono::steady_clock;

// Short transfers end within this time, and going to sleep would cost about as much.
constexpr auto kSpin = std::chrono::microseconds(20);

}  // namespace

void MpiOperation::wait() {
  if (!done()) {
    const auto begin = Clock::now();
    const auto deadline =
        begin + std::chrono::duration_cast<Clock::duration>(
                    std::chrono::duration<double>(identity_.communicator->timeout_s));
    while (!done() && Clock::now() - begin < kSpin) std::this_thread::yield();
    std::unique_lock lock(mutex_);
    const bool in_time = finished_changed_.wait_until(lock, deadline, [&] { return done(); });
    identity_.recorder->record_wait(seconds_since(begin));
    if (!in_time) throw timeout_error();
  }
  std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
}

void MpiOperation::begin_stage(const std::vector<MpiMessage>& messages) {
  std::lock_guard lock(mutex_);
  started_ = true;
  for (const MpiMessage& message : messages) missing_.emplace_back(message.kind, message.peer);
}

bool MpiOperation::complete_message(P2P::Kind kind, int peer) {
  std::lock_guard lock(mutex_);
  missing_.erase(std::find(missing_.begin(), missing_.end(), std::pair(kind, peer)));
  return missing_.empty();
}

void MpiOperation::finish(std::exception_ptr error) {
  std::lock_guard lock(mutex_);
  if (done()) return;
  error_ = std::move(error);
  finished_.store(true, std::memory_order_release);
  finished_changed_.notify_all();
}

Error MpiOperation::timeout_error() const {
  const MpiCommunicator& communicator = *identity_.communicator;
  auto peers = [&](P2P::Kind kind) {
    std::set<int> ranks;
    for (const auto& [missing_kind, peer] : missing_)
      if (missing_kind == kind) ranks.insert(peer);
    std::string text;
    for (int rank : ranks) {
      const int world_rank = communicator.world_ranks[static_cast<size_t>(rank)];
      text += fmt::format("{}{}", text.empty() ? "" : ", ", rank);
      if (world_rank != rank) text += fmt::format(" (rank {} of the job)", world_rank);
    }
    return text;
  };
  const std::string silent = peers(P2P::Kind::kReceive), deaf = peers(P2P::Kind::kSend);
  std::string found;
  if (!started_) found = "the operation was not started: the communication thread is stuck";
  if (!silent.empty()) found = fmt::format("no message from rank {}", silent);
  if (!deaf.empty())
    found += fmt::format("{}our message not taken by rank {}", found.empty() ? "" : "; ", deaf);
  return Error(
      ErrorCode::kTimeout,
      {.what = fmt::format("communication `{}` (operation {} of a group of {}) did not end on "
                           "rank {}",
                           identity_.label, identity_.tag, communicator.size(), communicator.rank),
       .expected = fmt::format("all messages within {} s", communicator.timeout_s),
       .found = std::move(found),
       .next = "look at what the ranks named here printed last: they failed, are slower than the "
               "deadline allows, or run another configuration"});
}

}  // namespace longship
