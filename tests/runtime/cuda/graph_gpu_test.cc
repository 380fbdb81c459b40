#include "runtime/cuda/graph.h"

#include <gtest/gtest.h>

#include "runtime/gpu.h"
#include "runtime/ops/add_elements.h"
#include "runtime/ops/fill.h"
#include "tests/support/expect_error.h"
#include "tests/support/gpu_check.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::on_host;

float first_of(const Tensor& tensor) {
  return *on_host(tensor).data<float>();
}

// x += y, with x and y on the GPU.
struct Sum {
  Context ctx = gpu_context(0);
  Tensor x = ctx.zeros({1000}, DType::kF32), y = ctx.zeros({1000}, DType::kF32);

  const Stream& stream() const { return *ctx.gpu->compute; }
  void enqueue() const { add_elements(ctx, x, y, x); }
};

TEST(GraphOnGpu, DoesNothingWhileItIsRecordedAndAllOfItWithEachLaunch) {
  const Sum sum;
  fill(sum.ctx, sum.y, 2);
  const Graph graph(sum.stream(), [&] { sum.enqueue(), sum.enqueue(); });
  EXPECT_EQ(first_of(sum.x), 0);
  graph.launch(sum.stream());
  EXPECT_EQ(first_of(sum.x), 4);
  fill(sum.ctx, sum.y, 10);  // read anew
  graph.launch(sum.stream());
  graph.launch(sum.stream());
  EXPECT_EQ(first_of(sum.x), 44);
}

TEST(GraphOnGpu, MayBeMovedAndOutlivedByWhatItDoes) {
  const Sum sum;
  fill(sum.ctx, sum.y, 1);
  {
    Graph graph(sum.stream(), [&] { sum.enqueue(); });
    const Graph moved = std::move(graph);
    moved.launch(sum.stream());
  }
  EXPECT_EQ(first_of(sum.x), 1);
}

TEST(GraphOnGpu, LeavesTheStreamAsItWasWhenTheWorkThrows) {
  const Sum sum;
  fill(sum.ctx, sum.y, 3);
  EXPECT_THROW(Graph(sum.stream(),
                     [&] {
                       sum.enqueue();
                       throw std::runtime_error("half-way");
                     }),
               std::runtime_error);
  EXPECT_EQ(first_of(sum.x), 0);
  sum.enqueue();
  EXPECT_EQ(first_of(sum.x), 3);
  const Graph graph(sum.stream(), [&] { sum.enqueue(); });
  graph.launch(sum.stream());
  EXPECT_EQ(first_of(sum.x), 6);
}

TEST(GraphOnGpu, NamesTheGpuWhenCudaRefuses) {
  const Sum sum;
  fill(sum.ctx, sum.y, 3);
  // The host waits for work that does not run.
  expect_error(ErrorCode::kInternal, {"GPU 0", "cudaErrorStreamCapture"}, [&] {
    Graph(sum.stream(), [&] {
      sum.enqueue();
      sum.stream().synchronize();
    });
  });
  sum.enqueue();
  EXPECT_EQ(first_of(sum.x), 3);
}

}  // namespace
}  // namespace longship
