// Gradients on GPUs, summed over two ranks, against the same on host tensors over MPI.
#include "parallel/gradient_reduction.h"

#include <gtest/gtest.h>

#include <cstring>

#include "parallel/cuda/gpu_runtime.h"
#include "runtime/random.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::world;

// Rank 1 has no gradient for the first parameter.
void fill_gradients(Context& ctx, ParameterList& parameters) {
  const std::shared_ptr<Memory> host = std::make_shared<Memory>();
  parameters.clear_gradients();
  uint64_t n = 0;
  for (Parameter& parameter : parameters.all()) {
    const uint64_t stream = 100 * static_cast<uint64_t>(world().rank()) + n;
    if (n++ == 0 && world().rank() == 1) continue;
    const Tensor values = Tensor::empty(host, parameter.master.shape(), DType::kF32);
    for (int64_t i = 0; i < values.numel(); ++i)
      values.data<float>()[i] = static_cast<float>(normal(3, stream, static_cast<uint64_t>(i)));
    parameter.variable.gradient()->accumulate_into(ctx).copy_from(values);
  }
}

void add_parameters(ParameterList& parameters) {
  const std::vector<Shape> shapes = {{7},       {33, 5}, {1},    {100, 40}, {3, 3},
                                     {640, 64}, {11},    {2001}, {0, 4},    {12}};
  for (size_t n = 0; n < shapes.size(); ++n)
    parameters.add(fmt::format("p{}", n), shapes[n], {}, true);
}

TEST(GradientsOnGpus, HaveTheBitsOfMpiForEveryBucketSizeAndTransport) {
  for (const TransportWish wish : {TransportWish::kPeerCopies, TransportWish::kNccl}) {
    const GpuRuntime runtime(testing::mpi(), {.transports = wish});
    Context host_ctx, gpu_ctx = runtime.context();
    gpu_ctx.memory->set_poison(true);
    ParameterList host(host_ctx, DType::kBF16, 1), gpu(gpu_ctx, DType::kBF16, 1);
    add_parameters(host);
    add_parameters(gpu);
    for (const int64_t bucket_bytes : {int64_t{4000}, int64_t{70000}, int64_t{16} << 20}) {
      fill_gradients(host_ctx, host);
      fill_gradients(gpu_ctx, gpu);
      world().reset_stats();
      GradientReduction(host_ctx, host, world(), {.bucket_bytes = bucket_bytes}).finish();
      const int64_t expected_bytes = world().stats().sent_bytes("gradients");
      world().reset_stats();
      GradientReduction(gpu_ctx, gpu, runtime.world(), {.bucket_bytes = bucket_bytes}).finish();
      EXPECT_EQ(world().stats().sent_bytes("gradients"), expected_bytes);
      auto expected = host.all().begin();
      for (const Parameter& parameter : gpu.all()) {
        const Tensor sum = parameter.variable.gradient()->sum().to(host_ctx.memory);
        const Tensor wanted = (expected++)->variable.gradient()->sum();
        ASSERT_EQ(sum.num_bytes(), wanted.num_bytes());
        EXPECT_EQ(std::memcmp(sum.raw(), wanted.raw(), static_cast<size_t>(sum.num_bytes())), 0)
            << parameter.name << ", buckets of " << bucket_bytes << " bytes";
      }
    }
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
