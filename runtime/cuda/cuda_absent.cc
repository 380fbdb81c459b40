// Stands in for CUDA in a build without it: asking for a GPU is refused, and nothing else of this
// can be reached without one.
#include "runtime/cuda/cuda_blocks.h"
#include "runtime/cuda/cuda_copy.h"
#include "runtime/cuda/device_info.h"
#include "runtime/cuda/gemm.h"
#include "runtime/cuda/graph.h"
#include "runtime/cuda/no_cuda.h"
#include "runtime/cuda/stream.h"

namespace longship {

Stream::Stream(Device, StreamPriority) {
  refuse_without_cuda("a stream");
}
Stream::~Stream() = default;
StreamHandle Stream::handle() const {
  refuse_without_cuda("a stream");
}
Event Stream::record() const {
  refuse_without_cuda("a stream");
}
Event Stream::record_time() const {
  refuse_without_cuda("a stream");
}
void Stream::wait(const Event&) const {
  refuse_without_cuda("a stream");
}
void Stream::synchronize() const {
  refuse_without_cuda("a stream");
}

// Every event is an empty one.
bool Event::has_passed() const {
  return true;
}
void Event::synchronize() const {}
double Event::milliseconds_since(const Event&) const {
  refuse_without_cuda("a time");
}
void Event::GiveBack::operator()(EventHandle) const {}

Graph::Graph(const Stream&, const std::function<void()>&) {
  refuse_without_cuda("a graph");
}
void Graph::launch(const Stream&) const {
  refuse_without_cuda("a graph");
}
void Graph::Destroy::operator()(GraphHandle) const {}

std::unique_ptr<BlockSource> device_blocks(std::shared_ptr<const Stream>) {
  refuse_without_cuda("memory");
}
std::unique_ptr<BlockSource> pinned_blocks(Device) {
  refuse_without_cuda("memory");
}

void enqueue_copy(void*, const void*, int64_t, StreamHandle) {
  refuse_without_cuda("a copy");
}
void enqueue_strided_copy(const CudaStridedCopy&, StreamHandle) {
  refuse_without_cuda("a copy");
}

struct Gemm::State {};
Gemm::Gemm(Device) {
  refuse_without_cuda("a product");
}
Gemm::~Gemm() = default;
bool Gemm::enqueue(const GemmProduct&, void*, StreamHandle) const {
  refuse_without_cuda("a product");
}

CudaInfo cuda_info() {
  return {};
}
VisibleGpus visible_gpus() {
  return {.names = {}, .none_reason = "this build has no CUDA code"};
}

}  // namespace longship
