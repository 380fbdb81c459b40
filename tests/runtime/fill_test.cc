#include "runtime/ops/fill.h"

#include <gtest/gtest.h>

#include <limits>

namespace longship {
namespace {

TEST(Fill, WritesEveryElementAndNoOther) {
  Context ctx;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const Tensor whole = ctx.zeros({9, 3}, dtype);
    fill(ctx, whole.slice(0, 2, 4), -std::numeric_limits<double>::infinity());
    const Tensor wide = whole.to(DType::kF64);
    for (int64_t i = 0; i < wide.numel(); ++i)
      EXPECT_EQ(wide.data<double>()[i],
                i >= 6 && i < 18 ? -std::numeric_limits<double>::infinity() : 0);
  }
}

TEST(Fill, StridedAndWholeNumberTensorsAreRefused) {
  Context ctx;
  EXPECT_THROW(fill(ctx, ctx.zeros({4, 6}, DType::kF32).transpose(0, 1), 1), Error);
  EXPECT_THROW(fill(ctx, ctx.zeros({4}, DType::kI64), 1), Error);
}

}  // namespace
}  // namespace longship
