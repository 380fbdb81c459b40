#include "runtime/model/parameter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "tests/support/expect_error.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;

constexpr Initializer kNormal{Initializer::Kind::kNormal, 0.02, 0};

TEST(ParameterList, ValuesDependOnSeedAndNameOnly) {
  Context one, many;
  many.num_threads = 5;
  ParameterList a(one, DType::kF32, 7), b(many, DType::kF32, 7), c(one, DType::kF32, 8);
  a.add("first", {3}, kNormal, true);
  const Variable from_a = a.add("w", {129, 257}, kNormal, true);
  const Variable from_b = b.add("w", {129, 257}, kNormal, false);
  const Variable from_c = c.add("w", {129, 257}, kNormal, true);
  const Variable other = a.add("w2", {129, 257}, kNormal, true);
  EXPECT_TRUE(bitwise_equal(from_a.value(), from_b.value()));
  EXPECT_FALSE(bitwise_equal(from_a.value(), from_c.value()));
  EXPECT_FALSE(bitwise_equal(from_a.value(), other.value()));
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * 4096;
}

TEST(ParameterList, WithoutValuesTouchesNoMemory) {
  Context ctx;
  const int64_t before = resident_bytes();
  ParameterList parameters = ParameterList::without_values(ctx);
  EXPECT_EQ(parameters.add("wide", {1 << 14, 1 << 14}, kNormal, true).shape(),
            (Shape{1 << 14, 1 << 14}));
  EXPECT_EQ(parameters.num_elements(), 1 << 28);
  EXPECT_LT(resident_bytes() - before, 1 << 26);
}

TEST(ParameterList, InitializersGiveTheirDistributions) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF32, 1);
  const int64_t n = 40000;
  const Tensor normal =
      parameters.add("normal", {n}, {Initializer::Kind::kNormal, 0.5, 0}, true).value();
  const Tensor ones =
      parameters.add("ones", {n}, {Initializer::Kind::kConstant, 1, 0}, false).value();
  const Tensor uniform =
      parameters.add("uniform", {n}, {Initializer::Kind::kUniform, -2, 6}, false).value();
  double sum = 0, squares = 0, mean = 0, low = 1e9, high = -1e9;
  for (int64_t i = 0; i < n; ++i) {
    sum += normal.data<float>()[i];
    squares += std::pow(normal.data<float>()[i], 2);
    EXPECT_EQ(ones.data<float>()[i], 1.0f);
    const double u = uniform.data<float>()[i];
    mean += u / static_cast<double>(n);
    low = std::min(low, u);
    high = std::max(high, u);
  }
  const double error = 5 / std::sqrt(static_cast<double>(n));
  EXPECT_NEAR(sum / static_cast<double>(n), 0, 0.5 * error);
  EXPECT_NEAR(squares / static_cast<double>(n), 0.25, 0.25 * error * std::sqrt(2.0));
  EXPECT_NEAR(mean, 2, 8 / std::sqrt(12.0) * error);
  EXPECT_GE(low, -2);
  EXPECT_LE(high, 6);
  EXPECT_NEAR(low, -2, 0.01);
  EXPECT_NEAR(high, 6, 0.01);
}

TEST(ParameterList, Bf16CopiesFollowTheirMasters) {
  Context ctx;
  ParameterList parameters(ctx, DType::kBF16, 1);
  const Variable w = parameters.add("w", {4, 5}, kNormal, true);
  Parameter& parameter = parameters.all().front();
  EXPECT_EQ(w.dtype(), DType::kBF16);
  EXPECT_EQ(parameter.master.dtype(), DType::kF32);
  EXPECT_EQ(w.gradient()->dtype(), DType::kF32);
  EXPECT_TRUE(bitwise_equal(w.value(), parameter.master.to(DType::kBF16)));
  parameter.master.data<float>()[7] = 3.0f;
  EXPECT_NE(static_cast<float>(w.value().data<bf16>()[7]), 3.0f);
  parameters.refresh_compute_copies();
  EXPECT_EQ(static_cast<float>(w.value().data<bf16>()[7]), 3.0f);
}

TEST(ParameterList, InFp32AndFp64OpsReadTheMasterItself) {
  Context ctx;
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    ParameterList parameters(ctx, dtype, 1);
    const Variable w = parameters.add("w", {4, 5}, kNormal, true);
    EXPECT_EQ(w.value().raw(), parameters.all().front().master.raw());
    EXPECT_EQ(w.dtype(), dtype);
    EXPECT_EQ(w.gradient()->dtype(), dtype);
  }
}

TEST(ParameterList, KeepsOrderFindsByNameAndCounts) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF32, 1);
  const Variable a = parameters.add("a", {2, 3}, kNormal, true);
  parameters.add("b", {5}, {Initializer::Kind::kConstant, 1, 0}, false);
  EXPECT_EQ(parameters.num_elements(), 11);
  ASSERT_NE(parameters.find("b"), nullptr);
  EXPECT_FALSE(parameters.find("b")->decay);
  EXPECT_TRUE(parameters.find("a")->decay);
  EXPECT_EQ(parameters.find("c"), nullptr);
  EXPECT_EQ(parameters.all().front().name, "a");
  a.gradient()->accumulate_into(ctx);
  EXPECT_TRUE(parameters.find("a")->variable.gradient()->defined());
  parameters.clear_gradients();
  EXPECT_FALSE(a.gradient()->defined());
}

TEST(ParameterList, RefusesANameThatExists) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF32, 1);
  parameters.add("w", {2}, kNormal, true);
  testing::expect_error(ErrorCode::kInternal, {"parameter w exists twice"},
                        [&] { parameters.add("w", {2}, kNormal, true); });
}

TEST(ParameterList, GateInitializersGiveTheirDistributions) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF64, 1);
  const int64_t n = 20000;
  const Tensor rates =
      parameters.add("A_log", {n}, {Initializer::Kind::kLogOfUniform, 0, 16}, false).value();
  const Tensor steps =
      parameters.add("dt_bias", {n}, {Initializer::Kind::kInverseSoftplus, 1e-3, 0.1}, false)
          .value();
  double mean_rate = 0, mean_log_step = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double rate = std::exp(rates.data<double>()[i]);
    const double step = std::log1p(std::exp(steps.data<double>()[i]));
    ASSERT_TRUE(rate > 0 && rate <= 16 * (1 + 1e-12)) << rate;
    ASSERT_TRUE(step > 1e-3 * (1 - 1e-9) && step < 0.1 * (1 + 1e-9)) << step;
    mean_rate += rate / static_cast<double>(n);
    mean_log_step += std::log10(step) / static_cast<double>(n);
  }
  EXPECT_NEAR(mean_rate, 8, 0.2);
  EXPECT_NEAR(mean_log_step, -2, 0.03);
}

TEST(ParameterList, SomeStayInFullPrecisionInBf16Models) {
  Context ctx;
  ParameterList parameters(ctx, DType::kBF16, 1);
  const Variable variable = parameters.add("A_log", {5}, kNormal, false, Precision::kMaster);
  const Parameter& parameter = parameters.all()[0];
  EXPECT_EQ(variable.dtype(), DType::kF32);
  EXPECT_EQ(variable.gradient()->dtype(), DType::kF32);
  parameter.master.data<float>()[2] = 1.2345678f;
  parameters.refresh_compute_copies();
  EXPECT_EQ(variable.value().data<float>()[2], 1.2345678f);
}

}  // namespace
}  // namespace longship
