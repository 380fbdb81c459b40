#include "runtime/ops/accumulate.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"

namespace longship {
namespace {

TEST(Accumulate, AddsIntoASliceAndLeavesTheRestAlone) {
  for (int num_threads : {1, 3}) {
    Context ctx;
    ctx.num_threads = num_threads;
    const int64_t rows = 4099, heads = 5, size = 3;
    const Tensor whole = testing::random_tensor(ctx, {rows, heads, size}, 1);
    const Tensor part = testing::random_tensor(ctx, {rows, 2, size}, 2);
    const Tensor before = whole.clone();
    accumulate(ctx, whole.slice(1, 3, 2), part);
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t d = 0; d < size; ++d) {
          const int64_t i = (t * heads + h) * size + d;
          const double added = h < 3 ? 0 : part.data<double>()[(t * 2 + h - 3) * size + d];
          ASSERT_EQ(whole.data<double>()[i], before.data<double>()[i] + added);
        }
  }
}

TEST(Accumulate, RoundedTermsAreAddedToSums) {
  Context ctx;
  const Tensor sum = testing::random_tensor(ctx, {7, 33}, 1).to(DType::kF32);
  const Tensor part = testing::random_tensor(ctx, {7, 33}, 2).to(DType::kBF16);
  const Tensor before = sum.clone(), terms = part.to(DType::kF32);
  accumulate(ctx, sum, part);
  for (int64_t i = 0; i < sum.numel(); ++i)
    EXPECT_EQ(sum.data<float>()[i], before.data<float>()[i] + terms.data<float>()[i]);
}

TEST(Accumulate, EmptyTensorsAreLegal) {
  Context ctx;
  for (const Shape& shape : {Shape{0, 4}, Shape{4, 0}})
    EXPECT_NO_THROW(accumulate(ctx, ctx.zeros(shape, DType::kF32), ctx.zeros(shape, DType::kF32)));
}

TEST(Accumulate, OtherShapesDtypesAndStridedSourcesAreRefused) {
  Context ctx;
  const Tensor into = ctx.zeros({4, 6}, DType::kF32);
  EXPECT_THROW(accumulate(ctx, into, ctx.zeros({4, 5}, DType::kF32)), Error);
  EXPECT_THROW(accumulate(ctx, into, ctx.zeros({4, 6}, DType::kF64)), Error);
  EXPECT_THROW(accumulate(ctx, into, ctx.zeros({6, 4}, DType::kF32).transpose(0, 1)), Error);
  const Tensor narrow = ctx.zeros({4, 6}, DType::kBF16);
  EXPECT_THROW(accumulate(ctx, narrow, narrow), Error);
}

}  // namespace
}  // namespace longship
