#include "runtime/cuda/graph.h"

#include <cuda_runtime_api.h>

#include <utility>

#include "runtime/cuda/cuda_error.h"

namespace longship {
namespace {

struct DestroyRecording {
  void operator()(CUgraph_st* recording) const { cudaGraphDestroy(recording); }
};
using Recording = std::unique_ptr<CUgraph_st, DestroyRecording>;

// The stream does work again afterwards, whatever happened meanwhile.
std::pair<cudaError_t, Recording> end_capture(StreamHandle stream) {
  cudaGraph_t recording = nullptr;
  const cudaError_t status = cudaStreamEndCapture(stream, &recording);
  return {status, Recording(recording)};
}

}  // namespace

Graph::Graph(const Stream& stream, const std::function<void()>& enqueue) {
  const StreamHandle handle = stream.handle();
  // Other threads go on as they like.
  check_cuda(cudaStreamBeginCapture(handle, cudaStreamCaptureModeThreadLocal),
             "begin to record a graph");
  try {
    enqueue();
  } catch (...) {
    end_capture(handle);
    cudaGetLastError();  // that the recording is broken is no news to the next check
    throw;
  }
  const auto [status, recording] = end_capture(handle);
  check_cuda(status, "record a graph");
  cudaGraphExec_t graph = nullptr;
  check_cuda(cudaGraphInstantiate(&graph, recording.get(), 0), "make a graph ready");
  handle_.reset(graph);
}

void Graph::launch(const Stream& stream) const {
  check_cuda(cudaGraphLaunch(handle_.get(), stream.handle()), "launch a graph");
}

void Graph::Destroy::operator()(GraphHandle graph) const {
  cudaGraphExecDestroy(graph);
}

}  // namespace longship
