#include "parallel/cuda/gpu_of_rank.h"

#include <cuda_runtime_api.h>

#include <array>
#include <cstring>
#include <vector>

#include "runtime/cuda/cuda_error.h"

namespace longship {
namespace {

struct Seat {
  int rank = 0;
  int host = 0;
  int ordinal = 0;
  int num_gpus = 0;  // that the rank sees
  std::array<char, 32> bus_id = {};
};

Seat own_seat(const MpiRuntime& mpi) {
  Seat seat{.rank = mpi.world().rank(), .host = mpi.host_leader()};
  if (cudaGetDeviceCount(&seat.num_gpus) != cudaSuccess) {
    cudaGetLastError();
    seat.num_gpus = 0;
  }
  seat.ordinal = seat.num_gpus == 1 ? 0 : mpi.local_rank();
  if (seat.ordinal < seat.num_gpus)
    check_cuda(cudaDeviceGetPCIBusId(seat.bus_id.data(), static_cast<int>(seat.bus_id.size()),
                                     seat.ordinal),
               "read where a GPU is");
  return seat;
}

std::vector<Seat> gather(const Group& world, const Seat& own) {
  std::vector<Seat> seats;
  for (const std::string& bytes : world.all_gather_bytes(
           "gpu.seats", std::string(reinterpret_cast<const char*>(&own), sizeof own))) {
    Seat seat;
    LONGSHIP_CHECK(bytes.size() == sizeof seat, "a seat of {} bytes", bytes.size());
    std::memcpy(&seat, bytes.data(), sizeof seat);
    seats.push_back(seat);
  }
  return seats;
}

Error too_few(std::string what, int num_ranks, int num_gpus) {
  return Error(
      ErrorCode::kConfig,
      {.what = std::move(what),
       .expected = "a GPU for every rank",
       .found = fmt::format("{} rank(s) on its host, which see {} GPU(s)", num_ranks, num_gpus),
       .next = "start as many ranks on a host as it has GPUs (mpirun --npernode), look at "
               "CUDA_VISIBLE_DEVICES, or run on the CPU"});
}

void require_own_gpus(const std::vector<Seat>& seats) {
  for (const Seat& seat : seats) {
    int num_ranks = 0;
    for (const Seat& other : seats) num_ranks += other.host == seat.host ? 1 : 0;
    if (seat.ordinal >= seat.num_gpus)
      throw too_few(fmt::format("rank {} has no GPU {}", seat.rank, seat.ordinal), num_ranks,
                    seat.num_gpus);
    for (const Seat& other : seats)
      if (other.rank < seat.rank && other.host == seat.host && other.bus_id == seat.bus_id)
        throw too_few(fmt::format("rank {} and rank {} would share GPU {} ({})", other.rank,
                                  seat.rank, seat.ordinal, seat.bus_id.data()),
                      num_ranks, seat.num_gpus);
  }
}

std::string no_peer_access(const Seat& own, const std::vector<Seat>& seats) {
  for (const Seat& other : seats) {
    if (other.host != own.host || other.rank == own.rank) continue;
    int ordinal = 0, can_access = 0;
    if (cudaDeviceGetByPCIBusId(&ordinal, other.bus_id.data()) != cudaSuccess) {
      cudaGetLastError();
      return fmt::format("rank {} does not see the GPU of rank {}", own.rank, other.rank);
    }
    check_cuda(cudaDeviceCanAccessPeer(&can_access, own.ordinal, ordinal), "ask for peer access");
    if (can_access == 0)
      return fmt::format("GPU {} of rank {} cannot reach GPU {} of rank {}", own.ordinal, own.rank,
                         ordinal, other.rank);
  }
  return {};
}

}  // namespace

GpuOfRank choose_gpu(const MpiRuntime& mpi) {
  const Group world = mpi.world();
  const Seat own = own_seat(mpi);
  const std::vector<Seat> seats = gather(world, own);
  require_own_gpus(seats);
  GpuOfRank chosen{.ordinal = own.ordinal, .no_peer_access = {}};
  for (const std::string& reason :
       world.all_gather_bytes("gpu.peer_access", no_peer_access(own, seats)))
    if (chosen.no_peer_access.empty()) chosen.no_peer_access = reason;
  return chosen;
}

}  // namespace longship
