// RMSNorm on a GPU against the CPU's in fp64, with poisoned outputs.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/ops/add.h"
#include "runtime/ops/rms_norm.h"
#include "runtime/ops/scale.h"
#include "tests/support/expect_error.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::poisoned_gpu;
using testing::random_tensor;
using testing::relative_rms;

constexpr double kEps = 1e-5;

// Inputs and the gradient of the output, in fp64, with values that bf16 holds exactly.
struct Case {
  Tensor x_RD, weight_D, dy_RD;

  Case(int64_t R, int64_t D, uint64_t seed) {
    Context ctx;
    x_RD = random_tensor(ctx, {R, D}, seed, 3.0).to(DType::kBF16).to(DType::kF64);
    weight_D = random_tensor(ctx, {D}, seed + 1).to(DType::kBF16).to(DType::kF64);
    dy_RD = random_tensor(ctx, {R, D}, seed + 2).to(DType::kBF16).to(DType::kF64);
  }
};

struct Result {
  Tensor y_RD, dx_RD, dweight_D;  // on the host
};

struct Wanted {
  bool dx = true, dweight = true;
  bool zero_centered = false;
};

Result run(Context ctx, const Case& c, DType dtype, Wanted wanted = {}) {
  Tape tape;
  ctx.tape = &tape;
  const auto host = std::make_shared<Memory>();
  auto input = [&](const Tensor& value, bool is_wanted) {
    const Tensor tensor = value.to(dtype).to(ctx.memory);
    return is_wanted ? Variable::leaf(tensor) : Variable(tensor);
  };
  const Variable x = input(c.x_RD, wanted.dx), weight = input(c.weight_D, wanted.dweight);
  const Variable y = rms_norm(ctx, x, weight, kEps, wanted.zero_centered);
  tape.backward(ctx, y, c.dy_RD.to(dtype).to(ctx.memory));
  Result result;
  result.y_RD = y.value().to(host);
  if (wanted.dx) result.dx_RD = x.gradient()->sum().to(host);
  if (wanted.dweight) result.dweight_D = weight.gradient()->sum().to(host);
  return result;
}

// Root mean square of dy w rstd, the terms that dx is the difference of: with one feature they are
// equal, and dx is zero up to rounding.
double gradient_scale(const Case& c, bool zero_centered) {
  const int64_t D = c.x_RD.dim(-1), R = c.x_RD.numel() / D;
  const double *x = c.x_RD.data<double>(), *dy = c.dy_RD.data<double>();
  const double* weight = c.weight_D.data<double>();
  double sum = 0;
  for (int64_t r = 0; r < R; ++r) {
    double squares = 0;
    for (int64_t d = 0; d < D; ++d) squares += x[r * D + d] * x[r * D + d];
    const double rstd = 1 / std::sqrt(squares / D + kEps);
    for (int64_t d = 0; d < D; ++d) {
      const double term = dy[r * D + d] * (weight[d] + (zero_centered ? 1 : 0)) * rstd;
      sum += term * term;
    }
  }
  return std::sqrt(sum / (R * D));
}

double rms_difference(const Tensor& found, const Tensor& exact) {
  const Tensor a = found.to(DType::kF64);
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double difference = a.data<double>()[i] - exact.data<double>()[i];
    sum += difference * difference;
  }
  return std::sqrt(sum / a.numel());
}

void expect_equal_to_cpu(const Context& gpu, const Case& c, bool zero_centered = false) {
  Context cpu;
  cpu.num_threads = 4;
  const Result exact = run(cpu, c, DType::kF64, {.zero_centered = zero_centered});
  const double scale = gradient_scale(c, zero_centered);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const double bound = dtype == DType::kF32 ? 1e-6 : 4e-3;
    const Result found = run(gpu, c, dtype, {.zero_centered = zero_centered});
    const std::string name = fmt::format("{} {}", dtype_name(dtype), shape_string(c.x_RD.shape()));
    EXPECT_LE(relative_rms(found.y_RD, exact.y_RD), bound) << name;
    EXPECT_LE(rms_difference(found.dx_RD, exact.dx_RD), bound * scale) << name;
    // Sums in fp32 of exact products: bf16 inputs cost it nothing.
    EXPECT_LE(relative_rms(found.dweight_D, exact.dweight_D), 2e-6) << name;
  }
}

TEST(RmsNormOnGpu, EqualsTheCpuAtEverySize) {
  const Context gpu = poisoned_gpu();
  uint64_t seed = 100;
  for (int64_t D :
       {1,    7,    64,   72,   96,   128,  192,  256,  264,   384,   520,   576,   768,  776,
        1000, 1021, 1536, 2048, 3072, 4096, 5120, 8192, 16384, 16392, 20000, 40000, 70000})
    for (int64_t R : {1, 2, 67}) expect_equal_to_cpu(gpu, Case(R, D, seed += 3));
}

TEST(RmsNormOnGpu, EqualsTheCpuOverManyRows) {
  const Context gpu = poisoned_gpu();
  expect_equal_to_cpu(gpu, Case(100000, 64, 1));
  expect_equal_to_cpu(gpu, Case(100003, 7, 2));
  expect_equal_to_cpu(gpu, Case(10001, 256, 3));
  expect_equal_to_cpu(gpu, Case(1301, 2048, 4));
  expect_equal_to_cpu(gpu, Case(301, 16384, 5));
  expect_equal_to_cpu(gpu, Case(10001, 576, 11));
  expect_equal_to_cpu(gpu, Case(2003, 1536, 13));
  expect_equal_to_cpu(gpu, Case(601, 5120, 14));
  expect_equal_to_cpu(gpu, Case(301, 32768, 15));
}

TEST(RmsNormOnGpu, EqualsTheCpuWithoutRowsAndPerHead) {
  const Context gpu = poisoned_gpu();
  const Result none = run(gpu, Case(0, 64, 6), DType::kBF16);
  EXPECT_EQ(none.y_RD.shape(), (Shape{0, 64}));
  EXPECT_EQ(relative_rms(none.dweight_D, Tensor::zeros(none.y_RD.memory(), {64}, DType::kF32)), 0);
  Case heads(70 * 6, 128, 7);
  heads.x_RD = heads.x_RD.reshape({70, 6, 128});
  heads.dy_RD = heads.dy_RD.reshape({70, 6, 128});
  expect_equal_to_cpu(gpu, heads);
}

TEST(RmsNormOnGpu, EqualsTheCpuWithZeroCenteredWeights) {
  const Context gpu = poisoned_gpu();
  for (int64_t D : {64, 1021, 2048}) expect_equal_to_cpu(gpu, Case(67, D, 12), true);
}

TEST(RmsNormOnGpu, AddsItsGradientToWhatItsInputHas) {
  const Context gpu = poisoned_gpu();
  Context cpu;
  // The other gradient comes as a sum that is viewed elsewhere too, and as one changed in place.
  for (const bool in_place : {false, true}) {
    auto function = [&](Context& ctx, const std::vector<Variable>& in) {
      const Variable x = scale(ctx, in[0], 1.0);
      const Variable y = rms_norm(ctx, x, in[1], kEps);
      return std::vector<Variable>{add(ctx, in_place ? scale(ctx, x, 1.0) : x, y)};
    };
    for (int64_t D : {7, 64, 576, 1021, 2048, 4096, 16384})
      for (int64_t R : {1, 67, 701})
        testing::check_on_gpu(gpu, function,
                              {random_tensor(cpu, {R, D}, 20), random_tensor(cpu, {D}, 21)});
  }
}

TEST(RmsNormOnGpu, TakesRowsThatAreNotAligned) {
  Context gpu = poisoned_gpu();
  const int64_t R = 37, D = 128;
  const Case c(R, D, 8);
  Context cpu;
  const Tensor exact = rms_norm(cpu, c.x_RD, c.weight_D, kEps).value();
  const Tensor buffer = gpu.empty({R * D + 1}, DType::kBF16);
  const Tensor x_RD = buffer.slice(0, 1, R * D).reshape({R, D});
  x_RD.copy_from(c.x_RD.to(DType::kBF16));
  const Tensor weight_D = c.weight_D.to(DType::kBF16).to(gpu.memory);
  EXPECT_LE(relative_rms(rms_norm(gpu, x_RD, weight_D, kEps).value().to(cpu.memory), exact), 4e-3);
}

TEST(RmsNormOnGpu, GivesTheSameBitsAgain) {
  const Context gpu = poisoned_gpu();
  for (const auto& [R, D] :
       {std::pair<int64_t, int64_t>{100000, 64}, {5003, 1024}, {777, 1021}, {501, 16384}})
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const Case c(R, D, 9);
      const Result first = run(gpu, c, dtype);
      for (int repeat = 0; repeat < 3; ++repeat) {
        const Tensor shift = gpu.empty({12345 * (repeat + 1)}, dtype);  // other addresses
        const Result again = run(gpu, c, dtype);
        EXPECT_TRUE(bitwise_equal(again.y_RD, first.y_RD));
        EXPECT_TRUE(bitwise_equal(again.dx_RD, first.dx_RD));
        EXPECT_TRUE(bitwise_equal(again.dweight_D, first.dweight_D));
      }
    }
}

TEST(RmsNormOnGpu, OneGradientAloneHasTheSameBits) {
  const Context gpu = poisoned_gpu();
  for (const auto& [R, D] : {std::pair<int64_t, int64_t>{1000, 128}, {1000, 4096}, {100, 1021}}) {
    const Case c(R, D, 10);
    const Result both = run(gpu, c, DType::kBF16);
    const Result dx = run(gpu, c, DType::kBF16, {.dweight = false});
    const Result dweight = run(gpu, c, DType::kBF16, {.dx = false});
    EXPECT_TRUE(bitwise_equal(dx.dx_RD, both.dx_RD));
    EXPECT_TRUE(bitwise_equal(dweight.dweight_D, both.dweight_D));
  }
}

TEST(RmsNormOnGpu, RefusesFp64) {
  const Context gpu = gpu_context(0);
  testing::expect_error(ErrorCode::kInternal, {"fp64"},
                        [&] { run(gpu, Case(2, 8, 11), DType::kF64); });
}

}  // namespace
}  // namespace longship
