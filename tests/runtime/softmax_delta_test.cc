#include "runtime/ops/softmax_delta.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

TEST(SoftmaxDelta, IsTheRowSumInEveryMixOfDtypes) {
  Context ctx;
  for (int64_t V : {1, 5, 16, 33, 128}) {
    const Tensor o = random_tensor(ctx, {9, 3, V}, 1), grad = random_tensor(ctx, {9, 3, V}, 2);
    for (const auto& [o_dtype, grad_dtype] :
         {std::pair{DType::kF32, DType::kF32}, std::pair{DType::kF32, DType::kBF16},
          std::pair{DType::kBF16, DType::kBF16}, std::pair{DType::kF64, DType::kF64}}) {
      const Tensor a = o.to(o_dtype), b = grad.to(grad_dtype);
      const Tensor delta = softmax_delta(ctx, a, b);
      ASSERT_EQ(delta.shape(), (Shape{9, 3}));
      EXPECT_EQ(delta.dtype(), accumulator_dtype(o_dtype));
      const Tensor wide_a = a.to(DType::kF64), wide_b = b.to(DType::kF64),
                   found = delta.to(DType::kF64);
      for (int64_t row = 0; row < 27; ++row) {
        double sum = 0, magnitude = 0;
        for (int64_t v = 0; v < V; ++v) {
          const double product =
              wide_a.data<double>()[row * V + v] * wide_b.data<double>()[row * V + v];
          sum += product;
          magnitude += std::abs(product);
        }
        const double bound = (o_dtype == DType::kF64 ? 1e-15 : 3e-7) * magnitude;
        EXPECT_NEAR(found.data<double>()[row], sum, bound) << "row " << row << " of size " << V;
      }
    }
  }
}

TEST(SoftmaxDelta, BitsDoNotDependOnTheNumberOfThreads) {
  Context ctx;
  const Tensor o = random_tensor(ctx, {1000, 3, 20}, 1).to(DType::kF32);
  const Tensor grad = random_tensor(ctx, {1000, 3, 20}, 2).to(DType::kF32);
  const Tensor expected = softmax_delta(ctx, o, grad);
  for (int num_threads : {2, 3, 7}) {
    ctx.num_threads = num_threads;
    EXPECT_TRUE(testing::bitwise_equal(softmax_delta(ctx, o, grad), expected));
  }
}

TEST(SoftmaxDelta, RefusesTensorsThatDoNotFit) {
  Context ctx;
  const Tensor o = ctx.zeros({4, 2, 6}, DType::kF32);
  for (const Tensor& bad : {ctx.zeros({4, 2, 5}, DType::kF32), ctx.zeros({4, 2, 6}, DType::kF64),
                            ctx.zeros({4, 2, 7}, DType::kF32).slice(2, 0, 6)})
    testing::expect_error(ErrorCode::kInternal, {"do"}, [&] { softmax_delta(ctx, o, bad); });
}

}  // namespace
}  // namespace longship
