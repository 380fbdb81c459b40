// Sums and fills on a GPU against the CPU's: the same bits.
#include <gtest/gtest.h>

#include <limits>

#include "runtime/gpu.h"
#include "runtime/ops/accumulate.h"
#include "runtime/ops/fill.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::random_tensor;

TEST(AccumulateGpu, HasTheBitsOfTheCpu) {
  const Context gpu = gpu_context(0);
  Context host;
  struct Case {
    int64_t rows, heads, size, first, count;  // `count` of the heads are added to
  };
  for (const Case& c : {Case{1, 1, 1, 0, 1}, Case{4099, 5, 3, 3, 2}, Case{1000, 8, 128, 0, 8},
                        Case{777, 8, 64, 2, 3}, Case{65, 3, 20, 1, 1}})
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor sum = random_tensor(host, {c.rows, c.heads, c.size}, 1).to(DType::kF32);
      const Tensor part = random_tensor(host, {c.rows, c.count, c.size}, 2).to(dtype);
      const Tensor gpu_sum = sum.to(gpu.memory);
      accumulate(gpu, gpu_sum.slice(1, c.first, c.count), part.to(gpu.memory));
      accumulate(host, sum.slice(1, c.first, c.count), part);
      EXPECT_TRUE(bitwise_equal(gpu_sum.to(host.memory), sum)) << c.rows << " rows of " << c.size;
    }
}

TEST(FillGpu, WritesEveryElementAndNoOther) {
  const Context gpu = gpu_context(0);
  const auto host = std::make_shared<Memory>();
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor whole = gpu.zeros({1003, 3}, dtype);
    fill(gpu, whole.slice(0, 1, 1000), -std::numeric_limits<double>::infinity());
    const Tensor wide = whole.to(host).to(DType::kF64);
    for (int64_t i = 0; i < wide.numel(); ++i)
      ASSERT_EQ(wide.data<double>()[i],
                i >= 3 && i < 3003 ? -std::numeric_limits<double>::infinity() : 0);
  }
}

}  // namespace
}  // namespace longship
