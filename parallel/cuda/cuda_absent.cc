// Stands in for the groups of GPUs in a build without CUDA.
#include "parallel/cuda/gpu_runtime.h"
#include "runtime/error.h"

namespace longship {

struct GpuComm {};

// Asking for a GPU is refused as any other use of one is.
GpuRuntime::GpuRuntime(const MpiRuntime&, Options) : context_(gpu_context(0)) {}
GpuRuntime::~GpuRuntime() = default;
Group GpuRuntime::world() const {
  return Group(world_);
}
void GpuRuntime::set_timeout(double) {}

}  // namespace longship
