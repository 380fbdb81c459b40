#include <gtest/gtest.h>

#include <limits>

#include "runtime/autograd/tape.h"
#include "runtime/gpu.h"
#include "runtime/ops/add.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"

namespace longship {
namespace {

TEST(CheckFiniteOnGpu, NamesTheFirstElementThatIsNot) {
  Context gpu = gpu_context(0);
  gpu.scope = "layers.3";
  const int64_t N = 3000001;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    Context cpu;
    const Tensor values = testing::random_tensor(cpu, {N}, 1);
    check_finite(gpu, "x", upload(gpu, values.to(dtype)));
    values.data<double>()[2999999] = std::numeric_limits<double>::quiet_NaN();
    testing::expect_error(ErrorCode::kNonFinite, {"layers.3: x", "nan at element 2999999"},
                          [&] { check_finite(gpu, "x", upload(gpu, values.to(dtype))); });
    values.data<double>()[N - 1] = values.data<double>()[1234567] =
        -std::numeric_limits<double>::infinity();
    testing::expect_error(ErrorCode::kNonFinite, {"-inf at element 1234567"},
                          [&] { check_finite(gpu, "x", upload(gpu, values.to(dtype))); });
  }
}

TEST(CheckFiniteOnGpu, OfNothingOrOfIntegersPasses) {
  const Context gpu = gpu_context(0);
  check_finite(gpu, "x", gpu.empty({0, 3}, DType::kF32));
  check_finite(gpu, "x", gpu.zeros({5}, DType::kI32));
}

TEST(CheckFiniteOnGpu, ExplainsTheOpThatOverflowed) {
  Context gpu = gpu_context(0);
  gpu.check_finite = true;
  Context cpu;
  const Tensor large = cpu.empty({3}, DType::kF32);
  std::fill_n(large.data<float>(), 3, 3e38f);
  const Variable x = upload(gpu, large);
  testing::expect_error(ErrorCode::kNonFinite, {"output of op `add`", "inf at element 0"},
                        [&] { add(gpu, x, x); });
}

}  // namespace
}  // namespace longship
