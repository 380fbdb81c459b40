#include "parallel/mpi_engine.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <thread>

namespace longship {
namespace {

// How long the engine rests between polls that find nothing: not at all at first, then ever longer,
// so that ranks that share a core let each other work. It sleeps and never yields: a thread that
// yields to one that computes waits for a whole time slice, one that wakes up runs at once.
class Backoff {
 public:
  void reset() { idle_polls_ = 0; }
  void rest() {
    constexpr int kBusyPolls = 20;
    if (++idle_polls_ <= kBusyPolls) return;
    const int doublings = std::min((idle_polls_ - kBusyPolls) / 16, 3);
    std::this_thread::sleep_for(std::chrono::microseconds(10) * (1 << doublings));
  }

 private:
  int idle_polls_ = 0;
};

}  // namespace

void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(
      ErrorCode::kInternal,
      {.what = fmt::format("{} failed", call),
       .found = std::string(text, static_cast<size_t>(length)),
       .next = "if the text above names a resource, free it; otherwise this is a bug in Longship"});
}

std::shared_ptr<MpiEngine> MpiEngine::start(int64_t max_message_bytes) {
  LONGSHIP_CHECK(max_message_bytes > 0 && max_message_bytes <= INT32_MAX,
                 "messages of {} bytes do not fit MPI counts", max_message_bytes);
  std::shared_ptr<MpiEngine> engine(new MpiEngine(max_message_bytes));
  // Signals are for the threads that compute.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  // Detached, so that a rank that fails never waits for it: stop() and halt() do, with a deadline.
  std::thread([engine] { engine->loop(); }).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return engine;
}

void MpiEngine::submit(std::shared_ptr<MpiOperation> operation) {
  std::lock_guard lock(mutex_);
  LONGSHIP_CHECK(phase_ == Phase::kRunning, "`{}` after the end of MPI",
                 operation->identity().label);
  operations_.push_back(std::move(operation));
  changed_.notify_all();
}

void MpiEngine::run(const std::function<void()>& task) {
  std::packaged_task<void()> packaged(task);
  std::future<void> result = packaged.get_future();
  {
    std::lock_guard lock(mutex_);
    LONGSHIP_CHECK(phase_ == Phase::kRunning, "a task after the end of MPI");
    tasks_.push_back([&packaged] { packaged(); });
    changed_.notify_all();
  }
  result.get();
}

bool MpiEngine::await_phase(Phase phase, double timeout_s) {
  std::unique_lock lock(mutex_);
  if (phase_ == Phase::kEnded) return true;
  phase_ = phase;
  changed_.notify_all();
  return changed_.wait_for(lock, std::chrono::duration<double>(timeout_s),
                           [&] { return phase_ == Phase::kEnded; });
}

bool MpiEngine::stop(double timeout_s) {
  return await_phase(Phase::kStopping, timeout_s);
}

void MpiEngine::halt(double timeout_s) noexcept {
  await_phase(Phase::kHalting, timeout_s);
}

bool MpiEngine::take_orders() {
  std::unique_lock lock(mutex_);
  while (phase_ == Phase::kRunning && operations_.empty() && tasks_.empty() && requests_.empty())
    changed_.wait(lock);
  if (phase_ == Phase::kHalting) return false;
  const auto operations = std::exchange(operations_, {});
  const auto tasks = std::exchange(tasks_, {});
  const bool idle = operations.empty() && tasks.empty() && requests_.empty();
  if (phase_ == Phase::kStopping && idle) return false;
  lock.unlock();
  for (const auto& operation : operations) advance(operation);
  for (const auto& task : tasks) task();
  return true;
}

void MpiEngine::loop() {
  pthread_setname_np(pthread_self(), "longship-mpi");
  prctl(PR_SET_TIMERSLACK, 1000);  // nanoseconds; the default would triple the shortest rest
  Backoff backoff;
  while (take_orders()) {
    if (requests_.empty()) continue;
    if (poll())
      backoff.reset();
    else
      backoff.rest();
  }
  std::unique_lock lock(mutex_);
  const bool halted = phase_ == Phase::kHalting;
  if (!halted)
    for (MPI_Comm& communicator : communicators_) MPI_Comm_free(&communicator);
  phase_ = Phase::kEnded;
  changed_.notify_all();
  if (halted) changed_.wait(lock, [] { return false; });
}

void MpiEngine::advance(const std::shared_ptr<MpiOperation>& operation) {
  try {
    // A stage may have no messages, such as a sum that waits for nobody.
    while (true) {
      MpiStage stage;
      if (!operation->next_stage(stage)) return operation->finish();
      std::erase_if(stage.messages, [](const MpiMessage& message) { return message.bytes == 0; });
      post(operation, stage);
      for (const LocalCopy& copy : stage.copies) copy_rows(copy.to, copy.from, copy.rows);
      if (!stage.messages.empty()) return;
    }
  } catch (...) {
    operation->finish(std::current_exception());
  }
}

void MpiEngine::post(const std::shared_ptr<MpiOperation>& operation, const MpiStage& stage) {
  std::vector<MpiMessage> pieces;
  for (const MpiMessage& message : stage.messages)
    for (int64_t offset = 0; offset < message.bytes; offset += max_message_bytes_)
      pieces.push_back({message.kind, message.peer, message.data + offset,
                        std::min(max_message_bytes_, message.bytes - offset)});
  operation->begin_stage(pieces);
  const MPI_Comm communicator = operation->identity().communicator->handle;
  const int tag = operation->identity().tag;
  // Receives first: a message that finds its receive waiting needs no extra copy.
  for (const P2P::Kind kind : {P2P::Kind::kReceive, P2P::Kind::kSend}) {
    for (const MpiMessage& piece : pieces) {
      if (piece.kind != kind) continue;
      const int bytes = static_cast<int>(piece.bytes);
      MPI_Request request = MPI_REQUEST_NULL;
      if (kind == P2P::Kind::kReceive)
        check_mpi(MPI_Irecv(piece.data, bytes, MPI_BYTE, piece.peer, tag, communicator, &request),
                  "MPI_Irecv");
      else
        check_mpi(MPI_Isend(piece.data, bytes, MPI_BYTE, piece.peer, tag, communicator, &request),
                  "MPI_Isend");
      requests_.push_back(request);
      in_flight_.push_back({operation, kind, piece.peer, bytes});
    }
  }
}

bool MpiEngine::poll() {
  completed_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int count = 0;
  const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                completed_.data(), statuses_.data());
  if (code != MPI_ERR_IN_STATUS && code != MPI_SUCCESS) {
    // MPI as a whole has failed: no operation can end any more.
    for (const InFlight& message : in_flight_) {
      try {
        check_mpi(code, "MPI_Testsome");
      } catch (...) {
        message.operation->finish(std::current_exception());
      }
    }
    return false;
  }
  if (count <= 0) return false;
  std::vector<std::pair<InFlight, int>> ended;  // with the place of its status
  for (int i = 0; i < count; ++i)
    ended.emplace_back(
        std::move(in_flight_[static_cast<size_t>(completed_[static_cast<size_t>(i)])]), i);
  // Completed requests are null now; the others keep their order.
  size_t kept = 0;
  for (size_t i = 0; i < requests_.size(); ++i) {
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    requests_[kept] = requests_[i];
    if (kept != i) in_flight_[kept] = std::move(in_flight_[i]);
    ++kept;
  }
  requests_.resize(kept);
  in_flight_.resize(kept);
  for (const auto& [message, i] : ended) {
    const MPI_Status& status = statuses_[static_cast<size_t>(i)];
    finish_message(message, status, code == MPI_SUCCESS ? MPI_SUCCESS : status.MPI_ERROR);
  }
  return true;
}

void MpiEngine::finish_message(const InFlight& message, const MPI_Status& status, int code) {
  const bool last = message.operation->complete_message(message.kind, message.peer);
  try {
    if (message.kind == P2P::Kind::kReceive && code != MPI_ERR_TRUNCATE) {
      int received = 0;
      if (code == MPI_SUCCESS) MPI_Get_count(&status, MPI_BYTE, &received);
      check_mpi(code, "MPI_Irecv");
      LONGSHIP_CHECK(received == message.bytes,
                     "`{}`: rank {} sent {} bytes where {} were expected",
                     message.operation->identity().label, message.peer, received, message.bytes);
    } else if (code == MPI_ERR_TRUNCATE) {
      LONGSHIP_CHECK(false, "`{}`: rank {} sent more than the {} bytes that were expected",
                     message.operation->identity().label, message.peer, message.bytes);
    } else {
      check_mpi(code, "MPI_Isend");
    }
  } catch (...) {
    message.operation->finish(std::current_exception());
  }
  if (last && !message.operation->done()) advance(message.operation);
}

}  // namespace longship
