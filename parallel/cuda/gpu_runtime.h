// One GPU per rank: which one, its Context, and the groups whose tensors travel between GPUs.
#pragma once

#include <memory>
#include <string>

#include "parallel/mpi_runtime.h"
#include "parallel/transport_choice.h"
#include "runtime/gpu.h"

namespace longship {

struct GpuComm;

// Destroyed before the MpiRuntime. Its groups may live longer.
class GpuRuntime {
 public:
  struct Options {
    TransportWish transports = TransportWish::kMeasured;
    double timeout_s = 600;  // within which an operation ends, once its turn has come on the GPU
  };

  // Collective over all ranks of `mpi`. Ranks of a host take its GPUs in order; a rank that sees
  // one GPU only takes that one. Throws Error(kConfig), on every rank, naming ranks and GPUs if two
  // ranks would share a GPU. Then measures which transport is faster for which messages, unless
  // `options` says which to use.
  GpuRuntime(const MpiRuntime& mpi, Options options);
  ~GpuRuntime();
  GpuRuntime(const GpuRuntime&) = delete;
  GpuRuntime& operator=(const GpuRuntime&) = delete;

  // Of this rank's GPU; with one thread, no tape.
  const Context& context() const { return context_; }

  // All ranks, counted with the world of MPI. Tensors of the GPU go from GPU to GPU, those of the
  // host and values through MPI. Operations of one group are done in order, those of different
  // groups side by side.
  Group world() const;

  // What carries which messages, in a line: "peer copies from 0 B to 64 MiB, NCCL above".
  const std::string& transports() const { return transports_; }

  // The deadline from now on.
  void set_timeout(double timeout_s);

 private:
  Context context_;
  std::shared_ptr<GpuComm> comm_;
  std::shared_ptr<Group::Backend> world_;
  std::string transports_;
};

}  // namespace longship
