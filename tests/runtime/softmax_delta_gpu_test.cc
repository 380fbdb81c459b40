// Row sums of o * do on a GPU against the CPU's in fp64.
#include <gtest/gtest.h>

#include "runtime/ops/softmax_delta.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bf16_values;
using testing::copy_on;
using testing::on_host;

TEST(SoftmaxDeltaOnGpu, EqualsTheCpuInEveryMixOfDtypes) {
  const Context gpu = testing::poisoned_gpu(), cpu;
  const Shape shapes[] = {{67, 4, 128}, {67, 3, 64},  {31, 2, 96},   {31, 2, 192},
                          {31, 2, 256}, {31, 3, 512}, {13, 3, 300},  {13, 3, 5},
                          {1, 1, 1},    {0, 2, 64},   {3001, 5, 128}};
  for (const Shape& shape : shapes) {
    const Tensor o = bf16_values(shape, 1), gradient = bf16_values(shape, 2);
    const Tensor exact = softmax_delta(cpu, o, gradient);
    for (DType o_dtype : {DType::kF32, DType::kBF16})
      for (DType do_dtype : {DType::kF32, DType::kBF16}) {
        const Tensor found =
            softmax_delta(gpu, copy_on(gpu, o, o_dtype), copy_on(gpu, gradient, do_dtype));
        EXPECT_EQ(found.dtype(), DType::kF32);
        // Values are exact in both dtypes, so only the sum in fp32 rounds.
        EXPECT_LE(testing::relative_rms(on_host(found), exact), 1e-6)
            << dtype_name(o_dtype) << " " << dtype_name(do_dtype) << " " << shape_string(shape);
        const Tensor again =
            softmax_delta(gpu, copy_on(gpu, o, o_dtype), copy_on(gpu, gradient, do_dtype));
        EXPECT_TRUE(testing::bitwise_equal(on_host(again), on_host(found)));
      }
  }
}

}  // namespace
}  // namespace longship
