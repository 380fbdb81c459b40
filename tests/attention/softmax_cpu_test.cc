// The tiled kernel against attention by its definition in fp64 (tests/support/naive_softmax.h).
#include "attention/softmax_cpu.h"

#include <gtest/gtest.h>

#include <cmath>

#include "parallel/softmax_schedule.h"
#include "runtime/ops/merge_partials.h"
#include "runtime/random.h"
#include "tests/attention/softmax_problem.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::check_gradients;
using testing::documents;
using testing::make_problem;
using testing::NaiveSoftmax;
using testing::random_tensor;
using testing::relative_rms;
using testing::run;
using testing::SoftmaxProblem;
using testing::SoftmaxResult;
using testing::total;

const SoftmaxCpu kKernel;

// The inputs of one problem in another dtype, exactly: they are bf16 numbers.
SoftmaxProblem convert(const SoftmaxProblem& problem, DType dtype) {
  SoftmaxProblem same = problem;
  for (Tensor* tensor : {&same.input.q_THD, &same.input.k_SKD, &same.input.v_SKV, &same.do_THV})
    *tensor = tensor->to(dtype);
  return same;
}

struct Bounds {
  double o = 1e-13, lse = 1e-13, gradient = 1e-13;
};
constexpr Bounds kF32Bounds{.o = 5e-7, .lse = 2e-7, .gradient = 1e-6};

void expect_near(const SoftmaxResult& found, const SoftmaxResult& expected, const Bounds& bounds) {
  EXPECT_LE(relative_rms(found.output.o_THV, expected.output.o_THV), bounds.o) << "o";
  const Tensor lse = found.output.lse_TH.to(DType::kF64);
  const Tensor expected_lse = expected.output.lse_TH.to(DType::kF64);
  for (int64_t i = 0; i < lse.numel(); ++i) {
    const double a = lse.data<double>()[i], b = expected_lse.data<double>()[i];
    EXPECT_TRUE(a == b || std::abs(a - b) <= bounds.lse * std::max(1.0, std::abs(b)))
        << "lse " << i << " is " << a << ", expected " << b;
  }
  const SoftmaxBlockBackward &f = found.gradients, &e = expected.gradients;
  EXPECT_LE(relative_rms(f.dq_THD, e.dq_THD), bounds.gradient) << "dq";
  EXPECT_LE(relative_rms(f.dk_SKD, e.dk_SKD), bounds.gradient) << "dk";
  EXPECT_LE(relative_rms(f.dv_SKV, e.dv_SKV), bounds.gradient) << "dv";
}

void expect_equal_to_definition(Context& ctx, const SoftmaxProblem& problem, const Bounds& bounds) {
  expect_near(run(ctx, kKernel, problem), run(ctx, NaiveSoftmax(), convert(problem, DType::kF64)),
              bounds);
}

TEST(SoftmaxCpu, EqualsTheDefinitionForEveryHeadSize) {
  Context ctx;
  const std::vector<int64_t> lengths = {37, 1, 0, 165, 18};
  const int64_t T = total(lengths);
  const std::pair<int64_t, int64_t> sizes[] = {{64, 64},   {96, 96},   {128, 128}, {192, 192},
                                               {256, 256}, {192, 128}, {1, 1},     {7, 13},
                                               {65, 33},   {80, 40}};
  for (const auto& [D, V] : sizes) {
    SCOPED_TRACE(fmt::format("head size {}, value size {}", D, V));
    const SoftmaxProblem wide =
        make_problem(ctx, T, T, {.H = 2, .K = 1, .D = D, .V = V}, documents(lengths), DType::kF64);
    expect_equal_to_definition(ctx, wide, {});
    expect_equal_to_definition(ctx, convert(wide, DType::kF32), kF32Bounds);
  }
}

TEST(SoftmaxCpu, EqualsTheDefinitionForEveryGroupingOfHeads) {
  Context ctx;
  const BlockMask mask = documents({53, 4});
  for (const auto& [H, K] : {std::pair<int64_t, int64_t>{8, 8}, {8, 2}, {8, 1}, {5, 5}, {3, 1}}) {
    SCOPED_TRACE(fmt::format("{} heads over {}", H, K));
    const SoftmaxProblem problem = make_problem(ctx, 57, 57, {.H = H, .K = K}, mask, DType::kF64);
    expect_equal_to_definition(ctx, problem, {});
  }
  // SoftmaxHeads as a rank of Ulysses may get them: uneven groups, and a key/value head without
  // queries.
  SoftmaxProblem uneven = make_problem(ctx, 57, 57, {.H = 4, .K = 4}, mask, DType::kF64);
  uneven.input.kv_head = {0, 2, 2, 3};
  expect_equal_to_definition(ctx, uneven, {});
}

TEST(SoftmaxCpu, EqualsTheDefinitionForRandomPackedDocuments) {
  Context ctx;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    std::vector<int64_t> lengths;
    for (uint64_t d = 0; d < 14; ++d)
      lengths.push_back(
          d % 4 == 0 ? 1 : static_cast<int64_t>(uniform_index(seed, 1, d, d == 7 ? 300 : 40)));
    SCOPED_TRACE(fmt::format("documents {}", fmt::join(lengths, ",")));
    const int64_t T = total(lengths);
    const SoftmaxProblem problem =
        make_problem(ctx, T, T, {.H = 2, .K = 1, .D = 9, .V = 5}, documents(lengths), DType::kF64);
    expect_equal_to_definition(ctx, problem, {});
    expect_equal_to_definition(ctx, convert(problem, DType::kF32), kF32Bounds);
  }
}

TEST(SoftmaxCpu, EqualsTheDefinitionUnderASlidingWindow) {
  Context ctx;
  const std::vector<int64_t> lengths = {1, 290, 70};
  const int64_t T = total(lengths);
  for (int64_t window : {1, 2, 17, 32, 64, 129, 200, 289, 290, 1000}) {
    SCOPED_TRACE(fmt::format("window {}", window));
    const SoftmaxProblem problem = make_problem(ctx, T, T, {.H = 2, .K = 1, .D = 9, .V = 5},
                                                documents(lengths, window), DType::kF64);
    expect_equal_to_definition(ctx, problem, {});
    expect_equal_to_definition(ctx, convert(problem, DType::kF32), kF32Bounds);
  }
}

// Query and key segments of one document in any order of rows, at any distance: what schedules ask.
TEST(SoftmaxCpu, EqualsTheDefinitionForBlocksAtAnyDistance) {
  Context ctx;
  const std::vector<Segment> queries = {
      {.document = 1, .position = 40, .length = 70, .slot = 0},
      {.document = 0, .position = 300, .length = 33, .slot = 75},
      {.document = 1, .position = 500, .length = 20, .slot = 110},
  };
  const std::vector<Segment> keys = {
      {.document = 1, .position = 480, .length = 60, .slot = 3},
      {.document = 1, .position = 0, .length = 150, .slot = 64},
      {.document = 0, .position = 310, .length = 5, .slot = 214},
  };
  for (int64_t window : {0, 31, 400}) {
    SCOPED_TRACE(fmt::format("window {}", window));
    const SoftmaxProblem problem =
        make_problem(ctx, 131, 220, {.H = 2, .K = 1, .D = 9, .V = 5},
                     document_mask(queries, keys, {.window = window}), DType::kF64);
    expect_equal_to_definition(ctx, problem, {});
    expect_equal_to_definition(ctx, convert(problem, DType::kF32), kF32Bounds);
  }
}

// Inputs are bf16 numbers, so only the arithmetic differs: it is that of fp32, without a rounding
// to bf16 in between.
TEST(SoftmaxCpu, Bf16IsComputedInFp32) {
  Context ctx;
  const SoftmaxProblem problem = make_problem(ctx, 300, 300, {.H = 4, .K = 2, .D = 64, .V = 64},
                                              documents({211, 89}), DType::kBF16);
  const SoftmaxResult found = run(ctx, kKernel, problem);
  EXPECT_EQ(found.output.o_THV.dtype(), DType::kF32);
  EXPECT_EQ(found.output.lse_TH.dtype(), DType::kF32);
  expect_near(found, run(ctx, NaiveSoftmax(), convert(problem, DType::kF64)), kF32Bounds);
  EXPECT_TRUE(bitwise_equal(found.output.o_THV,
                            run(ctx, kKernel, convert(problem, DType::kF32)).output.o_THV));
}

TEST(SoftmaxCpu, GradientsAreCentralDifferences) {
  Context ctx;
  const auto local = make_local(kKernel);
  const SequencePlan plan = SequencePlan::local({0, 5, 6, 6, 47});
  for (int64_t window : {0, 6}) {
    const AttentionOptions options{.scale = 0.4, .window = window};
    check_gradients(
        [&](Context& c, const std::vector<Variable>& in) {
          return std::vector<Variable>{local->attend(c, in[0], in[1], in[2], plan, options)};
        },
        {random_tensor(ctx, {47, 4, 5}, 1), random_tensor(ctx, {47, 2, 5}, 2),
         random_tensor(ctx, {47, 2, 3}, 3)});
  }
}

TEST(SoftmaxCpu, BackwardAddsToWhatIsThere) {
  Context ctx;
  const SoftmaxProblem problem = make_problem(ctx, 40, 40, {}, documents({40}), DType::kF64);
  const SoftmaxResult once = run(ctx, kKernel, problem);
  SoftmaxResult twice = run(ctx, kKernel, problem);
  kKernel.backward(ctx, problem.input, problem.mask, twice.gradients);
  for (auto member : {&SoftmaxBlockBackward::dq_THD, &SoftmaxBlockBackward::dk_SKD,
                      &SoftmaxBlockBackward::dv_SKV}) {
    const Tensor &a = once.gradients.*member, &b = twice.gradients.*member;
    for (int64_t i = 0; i < a.numel(); ++i) EXPECT_EQ(2 * a.data<double>()[i], b.data<double>()[i]);
  }
}

TEST(SoftmaxCpu, BackwardWritesWhereItIsTold) {
  Context ctx;
  const SoftmaxProblem problem = make_problem(ctx, 40, 40, {}, documents({40}), DType::kF64);
  const SoftmaxResult once = run(ctx, kKernel, problem);
  SoftmaxResult again = run(ctx, kKernel, problem);
  again.gradients.write_dq = again.gradients.write_dkv = true;
  kKernel.backward(ctx, problem.input, problem.mask, again.gradients);
  for (auto member : {&SoftmaxBlockBackward::dq_THD, &SoftmaxBlockBackward::dk_SKD,
                      &SoftmaxBlockBackward::dv_SKV})
    EXPECT_TRUE(bitwise_equal(once.gradients.*member, again.gradients.*member));
}

// What ring attention does: blocks of keys one by one, partial outputs merged, and the backward of
// each block given the merged lse and delta.
TEST(SoftmaxCpu, BlocksOfKeysMergeIntoTheWhole) {
  Context ctx;
  const int64_t T = 201;
  std::vector<Segment> whole = {{.document = 0, .length = 150},
                                {.document = 1, .length = 51, .slot = 150}};
  for (int64_t window : {0, 60}) {
    const SoftmaxProblem problem =
        make_problem(ctx, T, T, {}, document_mask(whole, whole, {.window = window}), DType::kF64);
    const SoftmaxResult expected = run(ctx, kKernel, problem);
    const int64_t cuts[] = {0, 1, 90, 170, T};
    auto block = [&](size_t i) {
      std::vector<Segment> keys;
      for (const Segment& s : whole) {
        const int64_t begin = std::max(cuts[i], s.slot);
        const int64_t end = std::min(cuts[i + 1], s.slot + s.length);
        if (begin < end)
          keys.push_back({.document = s.document,
                          .position = begin - s.slot,
                          .length = end - begin,
                          .slot = begin - cuts[i]});
      }
      SoftmaxProblem part = problem;
      part.mask = document_mask(whole, keys, {.window = window});
      part.input.k_SKD = problem.input.k_SKD.slice(0, cuts[i], cuts[i + 1] - cuts[i]);
      part.input.v_SKV = problem.input.v_SKV.slice(0, cuts[i], cuts[i + 1] - cuts[i]);
      return part;
    };
    SoftmaxBlockOutput merged = kKernel.forward(ctx, block(0).input, block(0).mask);
    for (size_t i = 1; i < 4; ++i) {
      const SoftmaxBlockOutput part = kKernel.forward(ctx, block(i).input, block(i).mask);
      merge_partials(ctx, merged.o_THV, merged.lse_TH, part.o_THV, part.lse_TH);
    }
    EXPECT_LE(relative_rms(merged.o_THV, expected.output.o_THV), 1e-14);
    EXPECT_LE(relative_rms(merged.lse_TH, expected.output.lse_TH), 1e-14);

    SoftmaxResult sum{.output = merged, .gradients = expected.gradients};
    sum.gradients.delta_or_o = softmax_delta(ctx, merged.o_THV, problem.do_THV);
    sum.gradients.lse_TH = merged.lse_TH;
    sum.gradients.dq_THD = ctx.zeros(problem.input.q_THD.shape(), DType::kF64);
    sum.gradients.dk_SKD = ctx.zeros(problem.input.k_SKD.shape(), DType::kF64);
    sum.gradients.dv_SKV = ctx.zeros(problem.input.v_SKV.shape(), DType::kF64);
    for (size_t i = 0; i < 4; ++i) {
      SoftmaxBlockBackward part = sum.gradients;
      part.dk_SKD = sum.gradients.dk_SKD.slice(0, cuts[i], cuts[i + 1] - cuts[i]);
      part.dv_SKV = sum.gradients.dv_SKV.slice(0, cuts[i], cuts[i + 1] - cuts[i]);
      kKernel.backward(ctx, block(i).input, block(i).mask, part);
    }
    expect_near(sum, expected, {});
  }
}

TEST(SoftmaxCpu, ScoresFarBeyondTheRangeOfExpStayAccurate) {
  Context ctx;
  SoftmaxProblem problem = make_problem(ctx, 200, 200, {}, documents({200}), DType::kF64);
  // Scores of 10^4 and more, whose own rounding of 10^-12 is what remains.
  problem.input.scale = 4000;
  expect_equal_to_definition(ctx, problem, {.o = 1e-10, .lse = 1e-13, .gradient = 1e-7});
  problem.input.scale = -300;
  expect_equal_to_definition(ctx, problem, {.o = 1e-11, .lse = 1e-13, .gradient = 1e-8});
}

}  // namespace
}  // namespace longship
