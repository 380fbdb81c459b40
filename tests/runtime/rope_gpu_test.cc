// RoPE on a GPU against the CPU's in fp64, with poisoned outputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/ops/rope.h"
#include "tests/support/expect_error.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bf16_values;
using testing::bitwise_equal;
using testing::copy_on;
using testing::on_host;
using testing::poisoned_gpu;
using testing::relative_rms;

constexpr double kTheta = 5e5;

// Documents of uneven length, one of which is past position 1,000,000.
Tensor positions(int64_t T) {
  std::vector<int64_t> values;
  for (int64_t t = 0; t < T; ++t)
    values.push_back(t % 3 == 0 ? 1'000'000 + t : (t % 3 == 1 ? t : 99'999'999 - t));
  return Tensor::from<int64_t>(std::make_shared<Memory>(), {T}, values);
}

TEST(RopeAnglesOnGpu, AreExactAtFarPositions) {
  const Context gpu = poisoned_gpu();
  const Context cpu;
  for (int64_t rotary_dim : {2, 64, 96, 128, 192, 256})
    for (double theta : {1e4, 5e5, 1e11}) {
      const Tensor at = positions(1000);
      const RopeAngles found = rope_angles(gpu, at, rotary_dim, theta, DType::kF32);
      const RopeAngles exact = rope_angles(cpu, at, rotary_dim, theta, DType::kF64);
      for (const auto& [a, b] :
           {std::pair(found.cos_TR, exact.cos_TR), std::pair(found.sin_TR, exact.sin_TR)}) {
        const Tensor host = on_host(a);
        ASSERT_EQ(host.shape(), b.shape());
        double worst = 0;
        for (int64_t i = 0; i < host.numel(); ++i)
          worst = std::max(
              worst, std::abs(static_cast<double>(host.data<float>()[i]) - b.data<double>()[i]));
        EXPECT_LE(worst, 6e-8) << rotary_dim << " " << theta;
      }
    }
}

struct Case {
  int64_t T, H, D, rotary_dim, first;
};

struct Result {
  Tensor y_THD, dx_THD;  // on the host
};

Result run(Context ctx, const Case& c, DType dtype) {
  Tape tape;
  ctx.tape = &tape;
  const Shape shape = {c.T, c.H, c.D};
  const Variable x_THD(copy_on(ctx, bf16_values(shape, 1), dtype),
                       std::make_shared<Gradient>(shape, dtype));
  const RopeAngles angles =
      rope_angles(ctx, positions(c.T), c.rotary_dim, kTheta, accumulator_dtype(dtype));
  const Variable y_THD = rope(ctx, x_THD, angles, c.first);
  tape.backward(ctx, y_THD, copy_on(ctx, bf16_values(shape, 2), dtype));
  return {on_host(y_THD.value()), on_host(x_THD.gradient()->sum())};
}

TEST(RopeOnGpu, EqualsTheCpu) {
  const Context gpu = poisoned_gpu(), cpu;
  const Case cases[] = {{67, 32, 128, 128, 0},   {67, 8, 128, 128, 0},  {50, 1, 64, 64, 0},
                        {50, 5, 96, 96, 0},      {33, 6, 192, 64, 128}, {33, 3, 256, 64, 0},
                        {33, 7, 256, 256, 0},    {21, 4, 80, 80, 0},    {21, 3, 24, 8, 4},
                        {21, 3, 7, 2, 3},        {1, 1, 2, 2, 0},       {0, 2, 64, 64, 0},
                        {5003, 12, 128, 128, 0}, {301, 5, 64, 64, 0},   {47, 9, 32, 16, 8},
                        {33, 6, 64, 32, 32},     {19, 2, 16, 8, 0},     {3, 3, 8, 8, 0}};
  for (const Case& c : cases) {
    const Result exact = run(cpu, c, DType::kF64);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const Result found = run(gpu, c, dtype);
      const double bound = testing::relative_bound(dtype);
      const std::string name = fmt::format("{} {}x{}x{} {} from {}", dtype_name(dtype), c.T, c.H,
                                           c.D, c.rotary_dim, c.first);
      EXPECT_LE(relative_rms(found.y_THD, exact.y_THD), bound) << name;
      EXPECT_LE(relative_rms(found.dx_THD, exact.dx_THD), bound) << name;
      const Result again = run(gpu, c, dtype);
      EXPECT_TRUE(bitwise_equal(again.y_THD, found.y_THD)) << name;
    }
  }
}

TEST(RopeOnGpu, TakesTensorsThatAreNotAligned) {
  Context gpu = poisoned_gpu(), cpu;
  const int64_t T = 9, H = 3, D = 64;
  const Tensor values = bf16_values({T, H, D}, 3);
  const Tensor x_THD =
      gpu.empty({T * H * D + 1}, DType::kBF16).slice(0, 1, T * H * D).reshape({T, H, D});
  x_THD.copy_from(values.to(DType::kBF16));
  const Tensor found =
      rope(gpu, x_THD, rope_angles(gpu, positions(T), D, kTheta, DType::kF32)).value();
  const Tensor exact =
      rope(cpu, values, rope_angles(cpu, positions(T), D, kTheta, DType::kF64)).value();
  EXPECT_LE(relative_rms(on_host(found), exact), 4e-3);
}

TEST(RopeOnGpu, RefusesFp64) {
  const Context gpu = gpu_context(0);
  testing::expect_error(ErrorCode::kInternal, {"fp64"}, [&] {
    run(gpu, {2, 1, 8, 8, 0}, DType::kF64);
  });
}

}  // namespace
}  // namespace longship
