#include "runtime/ops/sink_logit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::random_tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Rows {
  Tensor sink_H, o_THV, lse_TH;
};

Rows random_rows(Context& ctx, int64_t T, int64_t H, int64_t V) {
  return {random_tensor(ctx, {H}, 1, 2.0), random_tensor(ctx, {T, H, V}, 2),
          random_tensor(ctx, {T, H}, 3, 2.0)};
}

TEST(SinkLogit, IsOneMoreKeyOfValueZero) {
  Context ctx;
  const Rows rows = random_rows(ctx, 23, 3, 5);
  const Tensor o = rows.o_THV.clone(), lse = rows.lse_TH.clone();
  add_sink_logit(ctx, rows.sink_H, o, lse);
  for (int64_t row = 0; row < 23 * 3; ++row) {
    const double keys = std::exp(rows.lse_TH.data<double>()[row]);
    const double all = keys + std::exp(rows.sink_H.data<double>()[row % 3]);
    EXPECT_NEAR(lse.data<double>()[row], std::log(all), 1e-14);
    for (int64_t v = row * 5; v < row * 5 + 5; ++v)
      EXPECT_NEAR(o.data<double>()[v], rows.o_THV.data<double>()[v] * keys / all, 1e-14);
  }
}

TEST(SinkLogit, ARowWithoutKeysBelongsToTheSinkAndASinkOfWeightZeroToNoRow) {
  Context ctx;
  const double sinks[] = {0.5, -kInfinity, 1.5, -kInfinity};
  const double before[] = {-kInfinity, -kInfinity, 900, 2};
  const double after[] = {0.5, -kInfinity, 900, 2};
  const Tensor sink_H = Tensor::from<double>(ctx.memory, {4}, sinks);
  const Tensor lse_TH = Tensor::from<double>(ctx.memory, {1, 4}, before);
  const Tensor o_THV = random_tensor(ctx, {1, 4, 3}, 1);
  o_THV.slice(1, 0, 2).fill_zero();
  const Tensor kept = o_THV.clone();
  add_sink_logit(ctx, sink_H, o_THV, lse_TH);
  for (int64_t h = 0; h < 4; ++h) EXPECT_EQ(lse_TH.data<double>()[h], after[h]) << h;
  EXPECT_TRUE(testing::bitwise_equal(o_THV, kept));
  const Tensor gradient = sink_logit_gradient(ctx, sink_H, lse_TH, random_tensor(ctx, {1, 4}, 2));
  EXPECT_EQ(gradient.data<double>()[1], 0);
  EXPECT_EQ(gradient.data<double>()[2], 0);
  EXPECT_EQ(gradient.data<double>()[3], 0);
}

// A million rows whose terms are alike: a plain sum in fp32 would lose three digits.
TEST(SinkLogit, GradientOfManyRowsKeepsItsPrecision) {
  Context ctx;
  const int64_t T = 1 << 20;
  const float sinks[] = {0.25f};
  const Tensor sink_H = Tensor::from<float>(ctx.memory, {1}, sinks);
  const Tensor lse_TH = ctx.empty({T, 1}, DType::kF32), delta_TH = ctx.empty({T, 1}, DType::kF32);
  std::fill_n(lse_TH.data<float>(), T, 1.75f);
  std::fill_n(delta_TH.data<float>(), T, 0.3f);
  const Tensor gradient = sink_logit_gradient(ctx, sink_H, lse_TH, delta_TH);
  const double expected = -static_cast<double>(T) * std::exp(-1.5) * static_cast<double>(0.3f);
  EXPECT_NEAR(static_cast<double>(gradient.data<float>()[0]), expected, 1e-7 * -expected);
}

TEST(SinkLogit, BitsDoNotDependOnTheNumberOfThreads) {
  Context one;
  const Rows rows = random_rows(one, 5000, 3, 2);
  auto run = [&](int num_threads) {
    Context ctx;
    ctx.num_threads = num_threads;
    const Tensor o = rows.o_THV.to(DType::kF32), lse = rows.lse_TH.to(DType::kF32);
    add_sink_logit(ctx, rows.sink_H, o, lse);
    const Tensor delta = o.slice(2, 0, 1).contiguous().reshape({5000, 3});
    return std::vector<Tensor>{o, lse, sink_logit_gradient(ctx, rows.sink_H, lse, delta)};
  };
  const std::vector<Tensor> expected = run(1);
  for (int num_threads : {2, 5}) {
    const std::vector<Tensor> found = run(num_threads);
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_TRUE(testing::bitwise_equal(found[i], expected[i])) << i;
  }
}

TEST(SinkLogit, RefusesTensorsThatDoNotFit) {
  Context ctx;
  const Rows rows = random_rows(ctx, 4, 3, 5);
  const Tensor two_H = random_tensor(ctx, {2}, 1);
  expect_error(ErrorCode::kInternal, {"sink logits", "of 3 heads"},
               [&] { add_sink_logit(ctx, two_H, rows.o_THV, rows.lse_TH); });
  expect_error(ErrorCode::kInternal, {"sink logits"},
               [&] { add_sink_logit(ctx, rows.sink_H, rows.o_THV.to(DType::kF32), rows.lse_TH); });
  expect_error(ErrorCode::kInternal, {"delta"},
               [&] { sink_logit_gradient(ctx, rows.sink_H, rows.lse_TH, rows.o_THV); });
}

}  // namespace
}  // namespace longship
