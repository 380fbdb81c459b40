// Stands in for CUDA in a build without it: asking for a GPU is refused, and nothing else of this
// can be reached without one.
#include "runtime/cuda/cuda_blocks.h"
#include "runtime/cuda/cuda_copy.h"
#include "runtime/cuda/device_info.h"
#include "runtime/cuda/gemm.h"
#include "runtime/cuda/stream.h"
#include "runtime/error.h"

namespace longship {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorCode::kConfig,
              {.what = "this build of Longship has no CUDA code",
               .next = "build it on a machine with the CUDA toolkit (nvcc), or run on the CPU"});
}

}  // namespace

Stream::Stream(Device, StreamPriority) {
  refuse();
}
Stream::~Stream() = default;
StreamHandle Stream::handle() const {
  refuse();
}
Event Stream::record() const {
  refuse();
}
Event Stream::record_time() const {
  refuse();
}
void Stream::wait(const Event&) const {
  refuse();
}
void Stream::synchronize() const {
  refuse();
}

// Every event is an empty one.
bool Event::has_passed() const {
  return true;
}
void Event::synchronize() const {}
double Event::milliseconds_since(const Event&) const {
  refuse();
}
void Event::Destroy::operator()(EventHandle) const {}

std::unique_ptr<BlockSource> device_blocks(std::shared_ptr<const Stream>) {
  refuse();
}
std::unique_ptr<BlockSource> pinned_blocks(Device) {
  refuse();
}

void enqueue_copy(void*, const void*, int64_t, StreamHandle) {
  refuse();
}
void enqueue_strided_copy(const CudaStridedCopy&, StreamHandle) {
  refuse();
}

struct Gemm::State {};
Gemm::Gemm(Device) {
  refuse();
}
Gemm::~Gemm() = default;
bool Gemm::enqueue(const GemmProduct&, void*, StreamHandle) const {
  refuse();
}

CudaInfo cuda_info() {
  return {};
}
VisibleGpus visible_gpus() {
  return {.names = {}, .none_reason = "this build has no CUDA code"};
}

}  // namespace longship
