#include "parallel/cuda/nccl_communicator.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <chrono>
#include <cstring>
#include <future>
#include <thread>

#include "runtime/seconds_since.h"

namespace longship {
namespace {

constexpr auto kFarewell = std::chrono::seconds(5);  // for peers that end later

// NCCL's threads stay until every peer has closed its connections, and the calls that end a
// communicator wait for them: with a peer that is stuck, for ever. A thread that nobody joins makes
// these calls, so that this rank can end.
template <class End>
std::future<void> in_background(Device gpu, End end) {
  std::packaged_task<void()> task([gpu, end] {
    if (cudaSetDevice(gpu.index) == cudaSuccess) end();
  });
  std::future<void> ended = task.get_future();
  std::thread(std::move(task)).detach();
  return ended;
}

void finalize_and_destroy(ncclComm_t communicator) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + kFarewell;
  ncclResult_t status = ncclCommFinalize(communicator);
  while (status == ncclInProgress && Clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    if (ncclCommGetAsyncError(communicator, &status) != ncclSuccess) break;
  }
  status == ncclSuccess ? ncclCommDestroy(communicator) : ncclCommAbort(communicator);
}

}  // namespace

NcclCommunicator::NcclCommunicator(const Group& hosts, std::string others,
                                   std::shared_ptr<const Gpu> gpu,
                                   std::shared_ptr<CommFailure> failure,
                                   std::shared_ptr<StreamWaits> waits)
    : others_(std::move(others)),
      gpu_(std::move(gpu)),
      failure_(std::move(failure)),
      waits_(std::move(waits)) {
  const std::string operation = fmt::format("`nccl.start` (of a group of {})", hosts.size());
  ncclUniqueId id = {};
  if (hosts.rank() == 0) {
    const ncclResult_t status = ncclGetUniqueId(&id);
    if (status != ncclSuccess) throw error(status, operation);
  }
  const std::string bytes =
      hosts.broadcast_bytes("gpu.nccl_id", std::string(id.internal, sizeof id.internal), 0);
  LONGSHIP_CHECK(bytes.size() == sizeof id.internal, "NCCL's id has {} bytes", bytes.size());
  std::memcpy(id.internal, bytes.data(), bytes.size());
  gpu_->compute->handle();  // makes this GPU the current one
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  // NCCL then starts a thread for every operation, which short ones feel. But a call that blocks
  // may never come back from a peer that is stuck: NCCL waits for room in its queues without
  // looking whether the communicator is being aborted.
  config.blocking = 0;
  try {
    finish(ncclCommInitRankConfig(&handle_, hosts.size(), id, hosts.rank(), &config), operation);
  } catch (const Error&) {
    abort();
    throw;
  }
}

NcclCommunicator::~NcclCommunicator() {
  if (failure_->is_set()) {
    abort();
  } else if (handle_ != nullptr) {
    ended_ = in_background(gpu_->device, [handle = handle_] { finalize_and_destroy(handle); });
  }
  if (ended_.valid()) ended_.wait_for(kFarewell);
}

void NcclCommunicator::exchange(const std::string& operation, const std::vector<P2P>& batch,
                                const Stream& stream) {
  std::lock_guard lock(mutex_);
  failure_->throw_if_set();
  const StreamHandle handle = stream.handle();
  int status = ncclGroupStart();
  for (const P2P& message : batch) {
    if (status != ncclSuccess && status != ncclInProgress) break;
    void* const data = message.tensor.address();
    const auto bytes = static_cast<size_t>(message.tensor.num_bytes());
    status = message.kind == P2P::Kind::kSend
                 ? ncclSend(data, bytes, ncclUint8, message.peer, handle_, handle)
                 : ncclRecv(data, bytes, ncclUint8, message.peer, handle_, handle);
  }
  const int end = ncclGroupEnd();
  finish(status == ncclSuccess || status == ncclInProgress ? end : status, operation);
}

void NcclCommunicator::finish(int status, const std::string& operation) {
  const auto begin = std::chrono::steady_clock::now();
  StreamWaits::HostLoop loop(*waits_);
  while (status == ncclInProgress) {
    loop.look();
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(handle_, &state);
    status = asked != ncclSuccess ? asked : state;
    const double waited_s = seconds_since(begin);
    if (status == ncclInProgress && waited_s > failure_->timeout_s())
      throw failure_->timeout(operation, fmt::format("NCCL could not connect to {}", others_));
    failure_->throw_if_set();
    if (waited_s > 1e-3) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    } else {
      std::this_thread::yield();
    }
  }
  if (status != ncclSuccess) throw error(status, operation);
}

void NcclCommunicator::check() {
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock() || handle_ == nullptr) return;
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(handle_, &state);
  const ncclResult_t status = asked != ncclSuccess ? asked : state;
  if (status != ncclSuccess && status != ncclInProgress) throw error(status, "in the background");
}

void NcclCommunicator::abort() noexcept {
  std::lock_guard lock(mutex_);
  if (handle_ == nullptr) return;
  ended_ = in_background(gpu_->device, [handle = handle_] { ncclCommAbort(handle); });
  handle_ = nullptr;
}

Error NcclCommunicator::error(int status, const std::string& operation) const {
  const auto result = static_cast<ncclResult_t>(status);
  const char* const details = ncclGetLastError(handle_);
  return Error(ErrorCode::kInternal,
               {.what = fmt::format("NCCL failed {} on {}", operation, failure_->self()),
                .found = fmt::format("{}: {}", ncclGetErrorString(result),
                                     details == nullptr ? "" : details),
                .next = "NCCL_DEBUG=WARN prints more; a peer that ended looks like this too"});
}

}  // namespace longship
