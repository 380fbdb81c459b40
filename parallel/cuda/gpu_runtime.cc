#include "parallel/cuda/gpu_runtime.h"

#include <cstdlib>

#include "parallel/cuda/gpu_group.h"
#include "parallel/cuda/gpu_of_rank.h"
#include "parallel/cuda/transport_measurement.h"

namespace longship {
namespace {

constexpr int64_t kLargestMeasuredBytes = int64_t{16} << 20;

// Null with the reason where peer copies turn out to be impossible on any host.
std::shared_ptr<GpuLink> try_peer_copies(const Group& world, const std::shared_ptr<GpuComm>& comm,
                                         const TransportChoice& choice, std::string& reason) {
  std::shared_ptr<GpuLink> link;
  std::string own_reason;
  try {
    link = GpuLink::make(world, comm, comm->gpu->communication, choice);
    if (!link->has_peer_copies()) own_reason = "a rank is alone on its host";
  } catch (const Error& error) {
    if (comm->failure->is_set() || error.code() == ErrorCode::kTimeout) throw;
    own_reason = fmt::format("{}: {}", error.report().what, error.report().found);
  }
  for (const std::string& other : world.all_gather_bytes("gpu.peer_copies", own_reason))
    if (reason.empty()) reason = other;
  return reason.empty() ? link : nullptr;
}

}  // namespace

GpuRuntime::GpuRuntime(const MpiRuntime& mpi, Options options) {
  // Streams that share one of the GPU's queues wait for each other, also for one that waits for a
  // peer. CUDA makes 8 queues unless it is told otherwise before it starts.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  const Group world = mpi.world();
  const GpuOfRank own = choose_gpu(mpi);
  context_ = gpu_context(own.ordinal);
  comm_ = std::make_shared<GpuComm>();
  comm_->gpu = context_.gpu;
  comm_->failure = std::make_shared<CommFailure>(
      fmt::format("rank {} (GPU {})", world.rank(), own.ordinal), options.timeout_s);
  comm_->waits = std::make_shared<StreamWaits>(comm_->gpu->compute);
  comm_->peer_memory = std::make_shared<PeerMemory>(context_.gpu->device);
  comm_->watch = std::make_unique<CommWatch>(comm_->gpu, comm_->failure);
  comm_->world_rank = world.rank();
  comm_->host = mpi.host_leader();
  if (world.size() == 1) {
    transports_ = "one GPU: no messages";
    world_ = std::make_shared<GpuBackend>(mpi.world_backend(), comm_, nullptr);
    return;
  }

  std::string reason = own.no_peer_access;
  std::shared_ptr<GpuLink> link;
  if (reason.empty() && options.transports != TransportWish::kNccl) {
    comm_->choice = TransportChoice(Transport::kPeerCopies);
    link = try_peer_copies(world, comm_, comm_->choice, reason);
  }
  if (link == nullptr) {
    if (options.transports == TransportWish::kPeerCopies)
      throw Error(ErrorCode::kConfig, {.what = "GPUs cannot copy into each other's memory",
                                       .found = reason,
                                       .next = "let NCCL carry the messages"});
    comm_->choice = TransportChoice(Transport::kNccl);
    link = GpuLink::make(world, comm_, comm_->gpu->communication, comm_->choice);
  } else if (options.transports == TransportWish::kMeasured) {
    link->add_nccl();
    comm_->choice =
        TransportChoice::faster(measure_transports(world, *link, kLargestMeasuredBytes));
    link->set_choice(comm_->choice);
  }
  transports_ = comm_->choice.text();
  if (!reason.empty()) transports_ += fmt::format(" (no peer copies: {})", reason);
  world_ = std::make_shared<GpuBackend>(mpi.world_backend(), comm_, std::move(link));
}

GpuRuntime::~GpuRuntime() = default;

Group GpuRuntime::world() const {
  return Group(world_);
}

void GpuRuntime::set_timeout(double timeout_s) {
  comm_->failure->set_timeout(timeout_s);
}

}  // namespace longship
