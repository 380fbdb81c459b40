#include "runtime/ops/linear_cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "runtime/gpu.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;
using testing::relative_rms;

// Inputs that are exact in bf16, so that every dtype computes the same function.
struct Problem {
  Tensor h_TE, head_VE;  // fp64
  Tensor targets_T, weights_T;
};

// Every third token or so has weight 0, and then a target that no vocabulary has.
Problem make_problem(Context& ctx, int64_t T, int64_t E, int64_t V, bool skip_some = true) {
  Problem problem{
      random_tensor(ctx, {T, E}, 1).to(DType::kBF16).to(DType::kF64),
      random_tensor(ctx, {V, E}, 2, 0.3).to(DType::kBF16).to(DType::kF64),
      ctx.empty({T}, DType::kI32),
      ctx.empty({T}, DType::kF32),
  };
  for (int64_t t = 0; t < T; ++t) {
    const auto index = static_cast<uint64_t>(t);
    const bool skipped = skip_some && uniform_index(3, 0, index, 3) == 0;
    problem.weights_T.data<float>()[t] =
        skipped ? 0.0f : 0.25f * static_cast<float>(1 + uniform_index(3, 1, index, 8));
    problem.targets_T.data<int32_t>()[t] =
        skipped ? -7 : static_cast<int32_t>(uniform_index(3, 2, index, static_cast<uint64_t>(V)));
  }
  return problem;
}

struct Result {
  double loss = 0;
  Tensor dh_TE, dhead_VE;
};

double only_value(const Tensor& tensor) {
  return dispatch_floating(
      tensor.dtype(), [&](auto tag) { return static_cast<double>(*tensor.data<decltype(tag)>()); });
}

// The definition, in fp64, one token at a time.
Result by_definition(Context& ctx, const Problem& problem) {
  const int64_t T = problem.h_TE.dim(0), E = problem.h_TE.dim(1), V = problem.head_VE.dim(0);
  Result result{0, ctx.zeros({T, E}, DType::kF64), ctx.zeros({V, E}, DType::kF64)};
  const double* h = problem.h_TE.data<double>();
  const double* head = problem.head_VE.data<double>();
  std::vector<double> logits(static_cast<size_t>(V));
  for (int64_t t = 0; t < T; ++t) {
    const double weight = problem.weights_T.data<float>()[t];
    if (weight == 0) continue;
    const int32_t target = problem.targets_T.data<int32_t>()[t];
    double sum = 0;
    for (int64_t v = 0; v < V; ++v) {
      logits[v] = 0;
      for (int64_t e = 0; e < E; ++e) logits[v] += h[t * E + e] * head[v * E + e];
      sum += std::exp(logits[v]);
    }
    result.loss += weight * (std::log(sum) - logits[target]);
    for (int64_t v = 0; v < V; ++v) {
      const double grad = weight * (std::exp(logits[v]) / sum - (v == target ? 1 : 0));
      for (int64_t e = 0; e < E; ++e) {
        result.dh_TE.data<double>()[t * E + e] += grad * head[v * E + e];
        result.dhead_VE.data<double>()[v * E + e] += grad * h[t * E + e];
      }
    }
  }
  return result;
}

Result run(const Problem& problem, DType dtype, int num_threads, int64_t chunk_tokens,
           double seed = 1.0) {
  testing::TapeContext recorded;
  recorded.ctx.num_threads = num_threads;
  const Variable h = Variable::leaf(problem.h_TE.to(dtype));
  const Variable head = Variable::leaf(problem.head_VE.to(dtype));
  const Variable loss = linear_cross_entropy(recorded.ctx, h, head, problem.targets_T,
                                             problem.weights_T, chunk_tokens);
  EXPECT_EQ(loss.dtype(), accumulator_dtype(dtype));
  recorded.tape.backward(recorded.ctx, loss, seed);
  return {only_value(loss.value()), h.gradient()->sum(), head.gradient()->sum()};
}

TEST(LinearCrossEntropy, BackwardMatchesCentralDifferences) {
  Context ctx;
  for (const int64_t chunk_tokens : {1, 4, 1000}) {
    const Problem problem = make_problem(ctx, 11, 5, 7);
    testing::check_gradients(
        [&](Context& inner, const std::vector<Variable>& in) {
          return std::vector<Variable>{linear_cross_entropy(inner, in[0], in[1], problem.targets_T,
                                                            problem.weights_T, chunk_tokens)};
        },
        {problem.h_TE, problem.head_VE});
  }
}

TEST(LinearCrossEntropy, MatchesTheDefinitionForEveryTypeAndChunk) {
  Context ctx;
  for (const Shape& extents :
       std::vector<Shape>{{1, 3, 1}, {3, 1, 2}, {131, 33, 65}, {70, 17, 4099}})
    for (const bool skip_some : {false, true}) {
      const Problem problem = make_problem(ctx, extents[0], extents[1], extents[2], skip_some);
      const Result expected = by_definition(ctx, problem);
      for (const int64_t chunk_tokens : {1, 64, 67, 100000})
        for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
          const Result found = run(problem, dtype, 2, chunk_tokens);
          const double tolerance = dtype == DType::kF64 ? 1e-12 : 1e-5;
          const double gradient_tolerance = dtype == DType::kBF16 ? 1e-2 : tolerance;
          EXPECT_LE(std::abs(found.loss - expected.loss), tolerance * (1 + expected.loss))
              << dtype_name(dtype) << " " << shape_string(extents);
          EXPECT_LE(relative_rms(found.dh_TE, expected.dh_TE), gradient_tolerance);
          EXPECT_LE(relative_rms(found.dhead_VE, expected.dhead_VE), gradient_tolerance);
          EXPECT_EQ(found.dh_TE.dtype(), accumulator_dtype(dtype));
        }
    }
}

TEST(LinearCrossEntropy, StaysExactForLargeLogits) {
  // exp of these logits overflows fp32; only differences from the largest may be used.
  Context ctx;
  Problem problem = make_problem(ctx, 5, 3, 9, false);
  for (int64_t i = 0; i < problem.h_TE.numel(); ++i) problem.h_TE.data<double>()[i] *= 256;
  for (int64_t i = 0; i < problem.weights_T.numel(); ++i) problem.weights_T.data<float>()[i] = 1;
  const Result expected = run(problem, DType::kF64, 1, 8), found = run(problem, DType::kF32, 1, 8);
  EXPECT_TRUE(std::isfinite(expected.loss));
  EXPECT_LE(std::abs(found.loss - expected.loss), 1e-6 * expected.loss);
  EXPECT_LE(relative_rms(found.dh_TE, expected.dh_TE), 1e-4);
}

TEST(LinearCrossEntropy, ScalesItsGradientsByTheIncomingOne) {
  Context ctx;
  const Problem problem = make_problem(ctx, 37, 9, 21);
  const Result one = run(problem, DType::kF64, 1, 16),
               scaled = run(problem, DType::kF64, 1, 16, -0.3);
  EXPECT_EQ(one.loss, scaled.loss);
  for (int64_t i = 0; i < one.dh_TE.numel(); ++i)
    EXPECT_EQ(one.dh_TE.data<double>()[i] * -0.3, scaled.dh_TE.data<double>()[i]);
  for (int64_t i = 0; i < one.dhead_VE.numel(); ++i)
    EXPECT_EQ(one.dhead_VE.data<double>()[i] * -0.3, scaled.dhead_VE.data<double>()[i]);
}

TEST(LinearCrossEntropy, GivesTheSameBitsForAnyNumberOfThreads) {
  Context ctx;
  const Problem problem = make_problem(ctx, 517, 65, 259);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const Result first = run(problem, dtype, 1, 200);
    for (const int num_threads : {2, 3, 8}) {
      const Result found = run(problem, dtype, num_threads, 200);
      EXPECT_EQ(found.loss, first.loss);
      EXPECT_TRUE(testing::bitwise_equal(found.dh_TE, first.dh_TE));
      EXPECT_TRUE(testing::bitwise_equal(found.dhead_VE, first.dhead_VE));
    }
  }
}

TEST(LinearCrossEntropy, TokensOfWeightZeroLeaveNoTrace) {
  Context ctx;
  const Problem problem = make_problem(ctx, 75, 7, 11);
  const Result clean = run(problem, DType::kF32, 2, 32);
  Problem dirty = problem;
  dirty.h_TE = problem.h_TE.clone();
  for (int64_t t = 0; t < 75; ++t)
    if (problem.weights_T.data<float>()[t] == 0)
      dirty.h_TE.data<double>()[t * 7 + 3] = std::numeric_limits<double>::quiet_NaN();
  const Result found = run(dirty, DType::kF32, 2, 32);
  EXPECT_EQ(found.loss, clean.loss);
  EXPECT_TRUE(testing::bitwise_equal(found.dh_TE, clean.dh_TE));
  EXPECT_TRUE(testing::bitwise_equal(found.dhead_VE, clean.dhead_VE));
}

TEST(LinearCrossEntropy, ARankWithoutLossTokensGivesZeros) {
  Context ctx;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64})
    for (const int64_t T : {0, 9}) {
      const Problem problem = make_problem(ctx, T, 5, 7);
      problem.weights_T.fill_zero();
      const Result result = run(problem, dtype, 2, 4);
      EXPECT_EQ(result.loss, 0.0);
      EXPECT_EQ(result.dh_TE.shape(), (Shape{T, 5}));
      EXPECT_EQ(relative_rms(result.dh_TE, ctx.zeros({T, 5}, result.dh_TE.dtype())), 0.0);
      EXPECT_EQ(relative_rms(result.dhead_VE, ctx.zeros({7, 5}, result.dhead_VE.dtype())), 0.0);
    }
}

TEST(LinearCrossEntropy, NeverHoldsTokensTimesVocabulary) {
  const int64_t T = 2048, E = 16, V = 1024, chunk_tokens = 128;
  testing::TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Problem problem = make_problem(ctx, T, E, V);
  const Variable h = Variable::leaf(problem.h_TE.to(DType::kF32));
  const Variable head = Variable::leaf(problem.head_VE.to(DType::kF32));
  ctx.memory->reset_peak();
  const int64_t before = ctx.memory->live_bytes();
  const Variable loss =
      linear_cross_entropy(ctx, h, head, problem.targets_T, problem.weights_T, chunk_tokens);
  recorded.tape.backward(ctx, loss);
  const int64_t gradients = (T * E + V * E) * 4;
  const int64_t chunk = chunk_tokens * (V + 2 * E) * 4;
  // Blocks are rounded up by at most an eighth.
  const int64_t limit = (gradients + chunk) * 9 / 8 + 4096;
  ASSERT_LT(limit, T * V * 4 / 4) << "this limit would not notice a [T, V] tensor";
  EXPECT_LE(ctx.memory->peak_bytes() - before, limit);
}

TEST(LinearCrossEntropy, PlansOneChunkOfLogitsForAGpu) {
  const int64_t T = int64_t{1} << 20, E = 2048, V = 128256, chunk_tokens = 1024;
  testing::TapeContext recorded;
  Context& ctx = recorded.ctx;
  ctx.memory = counting_memory({DeviceKind::kCuda, 0});
  const Variable h(ctx.empty({T, E}, DType::kBF16),
                   std::make_shared<Gradient>(Shape{T, E}, DType::kBF16));
  const Variable head = Variable::leaf(ctx.empty({V, E}, DType::kBF16));
  const Tensor targets_T = ctx.empty({T}, DType::kI32), weights_T = ctx.empty({T}, DType::kF32);
  ctx.memory->reset_peak();
  const int64_t before = ctx.memory->live_bytes();
  const Variable loss = linear_cross_entropy(ctx, h, head, targets_T, weights_T, chunk_tokens);
  recorded.tape.backward(ctx, loss, 0.5);
  const int64_t gradients = T * E * 2 + V * E * 4, chunk = chunk_tokens * V * 4;
  EXPECT_GE(ctx.memory->peak_bytes() - before, gradients + chunk);
  EXPECT_LE(ctx.memory->peak_bytes() - before, gradients + chunk + (int64_t{64} << 20));
}

TEST(LinearCrossEntropy, RefusesTargetsOutsideTheVocabulary) {
  Context ctx;
  for (const int32_t bad : {-1, 7, std::numeric_limits<int32_t>::max()}) {
    const Problem problem = make_problem(ctx, 9, 5, 7, false);
    problem.targets_T.data<int32_t>()[4] = bad;
    ctx.num_threads = 3;
    testing::expect_error(ErrorCode::kCorrupt, {"token 4", std::to_string(bad), "[0, 7)"}, [&] {
      linear_cross_entropy(ctx, problem.h_TE, problem.head_VE, problem.targets_T, problem.weights_T,
                           4);
    });
    EXPECT_THROW(token_cross_entropy(ctx, problem.h_TE, problem.head_VE, problem.targets_T, 4),
                 Error);
  }
}

TEST(LinearCrossEntropy, WithoutATapeGivesTheSameLossAndSavesNothing) {
  testing::TapeContext recorded;
  Context plain;
  const Problem problem = make_problem(plain, 33, 5, 7);
  const Variable constant = linear_cross_entropy(recorded.ctx, problem.h_TE, problem.head_VE,
                                                 problem.targets_T, problem.weights_T, 8);
  EXPECT_FALSE(constant.requires_grad());
  EXPECT_EQ(recorded.tape.num_nodes(), 0u);
  EXPECT_EQ(only_value(constant.value()), run(problem, DType::kF64, 1, 8).loss);
}

TEST(TokenCrossEntropy, SumsToTheLoss) {
  Context ctx;
  ctx.num_threads = 2;
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kBF16}) {
    const Problem problem = make_problem(ctx, 133, 17, 29, false);
    const Tensor losses_T = token_cross_entropy(ctx, problem.h_TE.to(dtype),
                                                problem.head_VE.to(dtype), problem.targets_T, 50);
    ASSERT_EQ(losses_T.shape(), (Shape{133}));
    ASSERT_EQ(losses_T.dtype(), DType::kF32);
    double sum = 0;
    for (int64_t t = 0; t < 133; ++t)
      sum += static_cast<double>(losses_T.data<float>()[t]) * problem.weights_T.data<float>()[t];
    const double expected = by_definition(ctx, problem).loss;
    EXPECT_LE(std::abs(sum - expected), 1e-6 * expected);
  }
}

}  // namespace
}  // namespace longship
