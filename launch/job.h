// What every multi-rank verb starts with: MPI, this rank's share of the host or its GPU, and a
// Context.
#pragma once

#include <optional>
#include <string>

#include "launch/config.pb.h"
#include "parallel/cuda/gpu_runtime.h"
#include "parallel/mpi_runtime.h"
#include "runtime/context.h"

namespace longship {

struct Job {
  // On the CPU.
  explicit Job(double timeout_s = 600);

  MpiRuntime mpi;
  std::optional<GpuRuntime> gpu;
  Group world;
  Context ctx;
  std::string device = "CPU";  // which one, and why; for people

  bool is_first_rank() const { return world.rank() == 0; }
  // Prints a line on rank 0.
  void say(const std::string& line) const;
  // For how long this rank has waited for communication so far: on a GPU its compute stream.
  double comm_wait_s() const { return world.stats().wait_s_of(ctx.memory->device().kind); }

  // Where train.device of a valid, resolved configuration says: `ctx` and `world` are then those of
  // this rank's GPU, or stay as they are. Throws Error(kConfig) if GPUs are asked for and cannot be
  // had. Collective; before anything else is made of `ctx` or `world`.
  void choose_device(const config::Run& run);
  // On this rank's GPU, whatever is to run there. Throws Error(kConfig) if there is none, or one
  // for several ranks. Collective.
  void use_gpu(double timeout_s = 600);
};

}  // namespace longship
