#include "runtime/ops/merge_partials.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Attention of rows with given scores over keys [begin, end), in fp64.
struct Attention {
  Tensor o_THV, lse_TH;
};

Attention attend(Context& ctx, const Tensor& scores_THS, const Tensor& values_SV, int64_t begin,
                 int64_t end) {
  const int64_t T = scores_THS.dim(0), H = scores_THS.dim(1), S = scores_THS.dim(2);
  const int64_t V = values_SV.dim(1);
  const Attention result{ctx.zeros({T, H, V}, DType::kF64), ctx.empty({T, H}, DType::kF64)};
  for (int64_t row = 0; row < T * H; ++row) {
    const double* score = scores_THS.data<double>() + row * S;
    double sum = 0;
    for (int64_t s = begin; s < end; ++s) sum += std::exp(score[s]);
    result.lse_TH.data<double>()[row] = std::log(sum);
    for (int64_t s = begin; s < end; ++s)
      for (int64_t v = 0; v < V; ++v)
        result.o_THV.data<double>()[row * V + v] +=
            std::exp(score[s]) / sum * values_SV.data<double>()[s * V + v];
  }
  return result;
}

TEST(MergePartials, EqualsAttentionOverAllKeys) {
  Context ctx;
  const int64_t S = 23;
  for (DType dtype : {DType::kF32, DType::kF64})
    for (int64_t V : {1, 64, 96, 128, 192, 256}) {
      const Tensor scores = random_tensor(ctx, {5, 3, S}, 1, 4.0);
      const Tensor values = random_tensor(ctx, {S, V}, 2);
      const Attention whole = attend(ctx, scores, values, 0, S);
      // An empty part, as a rank that holds no visible key gives it, comes first and last.
      const std::vector<int64_t> cuts = {0, 0, 1, 9, S, S};
      Attention merged;
      for (size_t c = 0; c + 1 < cuts.size(); ++c) {
        const Attention part = attend(ctx, scores, values, cuts[c], cuts[c + 1]);
        const Tensor o = part.o_THV.to(dtype), lse = part.lse_TH.to(dtype);
        if (c == 0) {
          merged = {o, lse};
        } else {
          merge_partials(ctx, merged.o_THV, merged.lse_TH, o, lse);
        }
      }
      const double tolerance = dtype == DType::kF32 ? 5e-7 : 1e-14;
      EXPECT_LE(testing::relative_rms(merged.o_THV, whole.o_THV), tolerance) << V;
      EXPECT_LE(testing::relative_rms(merged.lse_TH, whole.lse_TH), tolerance) << V;
    }
}

TEST(MergePartials, OfTwoEmptySidesStaysEmpty) {
  Context ctx;
  const Tensor o = ctx.zeros({1, 2, 3}, DType::kF32), part = ctx.zeros({1, 2, 3}, DType::kF32);
  const float empty = -std::numeric_limits<float>::infinity();
  const float rows[] = {empty, empty};
  const Tensor lse = Tensor::from<float>(ctx.memory, {1, 2}, rows);
  merge_partials(ctx, o, lse, part, lse.clone());
  EXPECT_EQ(testing::relative_rms(o, part), 0);
  EXPECT_EQ(lse.data<float>()[0], empty);
  EXPECT_EQ(lse.data<float>()[1], empty);
}

TEST(MergePartials, SurvivesLogSumsThatExpCannotHold) {
  Context ctx;
  auto merged = [&](double lse_a, double lse_b) {
    const double one[] = {1.0}, zero[] = {0.0};
    const Tensor o = Tensor::from<double>(ctx.memory, {1, 1, 1}, one).to(DType::kF32);
    const Tensor part = Tensor::from<double>(ctx.memory, {1, 1, 1}, zero).to(DType::kF32);
    const Tensor a = Tensor::from<double>(ctx.memory, {1, 1}, {&lse_a, 1}).to(DType::kF32);
    const Tensor b = Tensor::from<double>(ctx.memory, {1, 1}, {&lse_b, 1}).to(DType::kF32);
    merge_partials(ctx, o, a, part, b);
    return std::pair(o.data<float>()[0], a.data<float>()[0]);
  };
  EXPECT_EQ(merged(1000, 900), std::pair(1.0f, 1000.0f));
  EXPECT_EQ(merged(-900, 900), std::pair(0.0f, 900.0f));
  EXPECT_NEAR(merged(-1000, -1000).first, 0.5f, 1e-6f);
  EXPECT_NEAR(merged(-1000, -1000).second, -1000 + std::log(2.0), 1e-4);
  EXPECT_EQ(merged(-kInfinity, 3), std::pair(0.0f, 3.0f));
  EXPECT_EQ(merged(3, -kInfinity), std::pair(1.0f, 3.0f));
}

TEST(MergePartials, NeverHidesNan) {
  Context ctx;
  const float nan = std::nanf("");
  for (const auto& [a, b] : {std::pair(nan, 1.0f), std::pair(1.0f, nan)}) {
    const Tensor o = ctx.zeros({1, 1, 2}, DType::kF32), part = ctx.zeros({1, 1, 2}, DType::kF32);
    const Tensor lse = Tensor::from<float>(ctx.memory, {1, 1}, {&a, 1});
    merge_partials(ctx, o, lse, part, Tensor::from<float>(ctx.memory, {1, 1}, {&b, 1}));
    EXPECT_TRUE(std::isnan(o.data<float>()[0]));
  }
}

TEST(MergePartials, RoundsInTheLastMergeAsAfterIt) {
  Context ctx;
  const Shape shape = {5, 3, 33};
  const Tensor o = random_tensor(ctx, shape, 1).to(DType::kF32);
  const Tensor lse = random_tensor(ctx, {5, 3}, 2).to(DType::kF32), last_lse = lse.clone();
  const Tensor part = random_tensor(ctx, shape, 3).to(DType::kBF16);
  const Tensor part_lse = random_tensor(ctx, {5, 3}, 4).to(DType::kF32);
  lse.data<float>()[1] = last_lse.data<float>()[1] = -std::numeric_limits<float>::infinity();
  part_lse.data<float>()[2] = -std::numeric_limits<float>::infinity();
  const Tensor before = o.clone(), from_lse = lse.clone();
  const Tensor out = ctx.empty(shape, DType::kBF16);
  merge_partials_into(ctx, out, o, last_lse, part, part_lse);
  EXPECT_TRUE(testing::bitwise_equal(o, before));
  // A part in bf16 counts as what it is in fp32.
  merge_partials(ctx, o, lse, part.to(DType::kF32), part_lse);
  EXPECT_TRUE(testing::bitwise_equal(out, o.to(DType::kBF16)));
  EXPECT_TRUE(testing::bitwise_equal(last_lse, lse));
  // Two parts that are rounded already.
  const Tensor from = before.to(DType::kBF16);
  merge_partials_into(ctx, out, from, from_lse, part, part_lse);
  EXPECT_LE(testing::relative_rms(out, o), 8e-3);
}

TEST(MergePartials, IsIndependentOfThreads) {
  Tensor first_o, first_lse;
  Context source;
  for (int num_threads : {1, 2, 3, 7}) {
    Context ctx;
    ctx.num_threads = num_threads;
    const Tensor o = random_tensor(source, {301, 3, 33}, 3).to(DType::kF32);
    const Tensor lse = random_tensor(source, {301, 3}, 4).to(DType::kF32);
    merge_partials(ctx, o, lse, random_tensor(source, {301, 3, 33}, 5).to(DType::kF32),
                   random_tensor(source, {301, 3}, 6).to(DType::kF32));
    if (!first_o.defined()) first_o = o, first_lse = lse;
    EXPECT_TRUE(testing::bitwise_equal(o, first_o));
    EXPECT_TRUE(testing::bitwise_equal(lse, first_lse));
  }
}

TEST(MergePartials, OfNoTokensWorks) {
  Context ctx;
  const Tensor o_THV = ctx.zeros({0, 2, 3}, DType::kF32), lse_TH = ctx.zeros({0, 2}, DType::kF32);
  EXPECT_NO_THROW(merge_partials(ctx, o_THV, lse_TH, o_THV.clone(), lse_TH.clone()));
}

}  // namespace
}  // namespace longship
