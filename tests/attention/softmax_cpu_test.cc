// The tiled kernel against attention by its definition in fp64 (tests/support/naive_softmax.h).
// Shapes: T queries, S keys, H query heads, K key/value heads, D head size, V value size.
#include "attention/softmax_cpu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "parallel/softmax_schedule.h"
#include "runtime/ops/merge_partials.h"
#include "runtime/ops/softmax_delta.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::check_gradients;
using testing::expect_error;
using testing::NaiveSoftmax;
using testing::random_tensor;
using testing::relative_rms;

const SoftmaxCpu kKernel;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Heads {
  int64_t H = 4, K = 2, D = 8, V = 8;
};

// A block of attention with the gradient of its output.
struct Problem {
  SoftmaxBlockInput input;
  BlockMask mask;
  Tensor do_THV;
};

struct Result {
  SoftmaxBlockOutput output;
  SoftmaxBlockBackward gradients;
};

Problem make_problem(Context& ctx, int64_t T, int64_t S, const Heads& heads, BlockMask mask,
                     DType dtype) {
  auto random = [&](Shape shape, uint64_t seed) {
    return random_tensor(ctx, std::move(shape), seed).to(DType::kBF16).to(dtype);
  };
  return {.input = {.q_THD = random({T, heads.H, heads.D}, 1),
                    .k_SKD = random({S, heads.K, heads.D}, 2),
                    .v_SKV = random({S, heads.K, heads.V}, 3),
                    .kv_head = grouped_kv_heads(heads.H, heads.K),
                    .scale = 1 / std::sqrt(static_cast<double>(heads.D))},
          .mask = std::move(mask),
          .do_THV = random({T, heads.H, heads.V}, 4)};
}

// The inputs of one problem in another dtype, exactly: they are bf16 numbers.
Problem convert(const Problem& problem, DType dtype) {
  Problem same = problem;
  for (Tensor* tensor : {&same.input.q_THD, &same.input.k_SKD, &same.input.v_SKV, &same.do_THV})
    *tensor = tensor->to(dtype);
  return same;
}

void backward(Context& ctx, const SoftmaxBlock& kernel, const Problem& problem, Result& result) {
  const DType sums = result.output.lse_TH.dtype();
  result.gradients = {.do_THV = problem.do_THV,
                      .lse_TH = result.output.lse_TH,
                      .delta_or_o = softmax_delta(ctx, result.output.o_THV, problem.do_THV),
                      .dq_THD = ctx.zeros(problem.input.q_THD.shape(), sums),
                      .dk_SKD = ctx.zeros(problem.input.k_SKD.shape(), sums),
                      .dv_SKV = ctx.zeros(problem.input.v_SKV.shape(), sums)};
  kernel.backward(ctx, problem.input, problem.mask, result.gradients);
}

Result run(Context& ctx, const SoftmaxBlock& kernel, const Problem& problem) {
  Result result{.output = kernel.forward(ctx, problem.input, problem.mask), .gradients = {}};
  backward(ctx, kernel, problem, result);
  return result;
}

struct Bounds {
  double o = 1e-13, lse = 1e-13, gradient = 1e-13;
};
constexpr Bounds kF32Bounds{.o = 5e-7, .lse = 2e-7, .gradient = 1e-6};

void expect_near(const Result& found, const Result& expected, const Bounds& bounds) {
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

void expect_equal_to_definition(Context& ctx, const Problem& problem, const Bounds& bounds) {
  expect_near(run(ctx, kKernel, problem), run(ctx, NaiveSoftmax(), convert(problem, DType::kF64)),
              bounds);
}

// Documents of these lengths laid end to end, attending to themselves.
BlockMask documents(const std::vector<int64_t>& lengths, int64_t window = 0) {
  std::vector<Segment> segments;
  int64_t slot = 0;
  for (size_t d = 0; d < lengths.size(); slot += lengths[d++])
    if (lengths[d] > 0)
      segments.push_back({.document = static_cast<int64_t>(d), .length = lengths[d], .slot = slot});
  return document_mask(segments, segments, {.window = window});
}

int64_t total(const std::vector<int64_t>& lengths) {
  int64_t sum = 0;
  for (int64_t length : lengths) sum += length;
  return sum;
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
    const Problem wide =
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
    const Problem problem = make_problem(ctx, 57, 57, {.H = H, .K = K}, mask, DType::kF64);
    expect_equal_to_definition(ctx, problem, {});
  }
  // Heads as a rank of Ulysses may get them: uneven groups, and a key/value head without queries.
  Problem uneven = make_problem(ctx, 57, 57, {.H = 4, .K = 4}, mask, DType::kF64);
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
    const Problem problem =
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
    const Problem problem = make_problem(ctx, T, T, {.H = 2, .K = 1, .D = 9, .V = 5},
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
    const Problem problem =
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
  const Problem problem = make_problem(ctx, 300, 300, {.H = 4, .K = 2, .D = 64, .V = 64},
                                       documents({211, 89}), DType::kBF16);
  const Result found = run(ctx, kKernel, problem);
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
  const Problem problem = make_problem(ctx, 40, 40, {}, documents({40}), DType::kF64);
  const Result once = run(ctx, kKernel, problem);
  Result twice = run(ctx, kKernel, problem);
  kKernel.backward(ctx, problem.input, problem.mask, twice.gradients);
  for (auto member : {&SoftmaxBlockBackward::dq_THD, &SoftmaxBlockBackward::dk_SKD,
                      &SoftmaxBlockBackward::dv_SKV}) {
    const Tensor &a = once.gradients.*member, &b = twice.gradients.*member;
    for (int64_t i = 0; i < a.numel(); ++i) EXPECT_EQ(2 * a.data<double>()[i], b.data<double>()[i]);
  }
}

TEST(SoftmaxCpu, BackwardWritesWhereItIsTold) {
  Context ctx;
  const Problem problem = make_problem(ctx, 40, 40, {}, documents({40}), DType::kF64);
  const Result once = run(ctx, kKernel, problem);
  Result again = run(ctx, kKernel, problem);
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
    const Problem problem =
        make_problem(ctx, T, T, {}, document_mask(whole, whole, {.window = window}), DType::kF64);
    const Result expected = run(ctx, kKernel, problem);
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
      Problem part = problem;
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

    Result sum{.output = merged, .gradients = expected.gradients};
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

TEST(SoftmaxCpu, RowsWithoutKeysGiveMinusInfinityAndZero) {
  Context ctx;
  // Queries 0..9 come before the keys, 10..19 are of another document, 20..29 see keys.
  const std::vector<Segment> queries = {
      {.document = 0, .position = 0, .length = 30, .slot = 0},
      {.document = 7, .position = 0, .length = 10, .slot = 30},
  };
  const std::vector<Segment> keys = {{.document = 0, .position = 10, .length = 15, .slot = 2}};
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const Problem problem = make_problem(ctx, 40, 20, {}, document_mask(queries, keys, {}), dtype);
    const Result found = run(ctx, kKernel, problem);
    const Tensor o = found.output.o_THV.to(DType::kF64), lse = found.output.lse_TH.to(DType::kF64);
    for (int64_t t = 0; t < 40; ++t)
      for (int64_t h = 0; h < 4; ++h) {
        const bool blind = t < 10 || t >= 30;
        EXPECT_EQ(lse.data<double>()[t * 4 + h] == -kInfinity, blind) << t;
        for (int64_t v = 0; v < 8; ++v)
          EXPECT_EQ(o.data<double>()[(t * 4 + h) * 8 + v] == 0, blind);
      }
    for (const Tensor& gradient :
         {found.gradients.dq_THD, found.gradients.dk_SKD, found.gradients.dv_SKV})
      EXPECT_LE(relative_rms(gradient, gradient), 0) << "a gradient is not a number";
  }
}

TEST(SoftmaxCpu, NoQueriesNoKeysAndNoHeadsWork) {
  Context ctx;
  for (const auto& [T, S] : {std::pair<int64_t, int64_t>{0, 0}, {0, 9}, {9, 0}}) {
    const Problem problem = make_problem(ctx, T, S, {}, BlockMask{}, DType::kF32);
    const Result found = run(ctx, kKernel, problem);
    EXPECT_EQ(found.output.o_THV.shape(), (Shape{T, 4, 8}));
    for (int64_t i = 0; i < found.output.lse_TH.numel(); ++i)
      EXPECT_EQ(found.output.lse_TH.data<float>()[i], -std::numeric_limits<float>::infinity());
    EXPECT_EQ(relative_rms(found.output.o_THV, found.output.o_THV), 0);
  }
  Problem headless = make_problem(ctx, 9, 9, {.H = 0, .K = 1}, documents({9}), DType::kF32);
  EXPECT_EQ(run(ctx, kKernel, headless).output.o_THV.shape(), (Shape{9, 0, 8}));
}

TEST(SoftmaxCpu, BitsDoNotDependOnTheNumberOfThreads) {
  const BlockMask mask = documents({1, 260, 33, 77});
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    Context one;
    const Problem problem =
        make_problem(one, 371, 371, {.H = 4, .K = 2, .D = 16, .V = 24}, mask, dtype);
    const Result expected = run(one, kKernel, problem);
    for (int num_threads : {2, 3, 8}) {
      Context many;
      many.num_threads = num_threads;
      const Result found = run(many, kKernel, problem);
      EXPECT_TRUE(bitwise_equal(found.output.o_THV, expected.output.o_THV)) << num_threads;
      EXPECT_TRUE(bitwise_equal(found.output.lse_TH, expected.output.lse_TH)) << num_threads;
      EXPECT_TRUE(bitwise_equal(found.gradients.dq_THD, expected.gradients.dq_THD)) << num_threads;
      EXPECT_TRUE(bitwise_equal(found.gradients.dk_SKD, expected.gradients.dk_SKD)) << num_threads;
      EXPECT_TRUE(bitwise_equal(found.gradients.dv_SKV, expected.gradients.dv_SKV)) << num_threads;
    }
  }
}

TEST(SoftmaxCpu, AKeyChangesTheBitsOfQueriesThatSeeItOnly) {
  Context ctx;
  const int64_t T = 300;
  Problem problem = make_problem(ctx, T, T, {.H = 1, .K = 1}, documents({190, 110}), DType::kF32);
  const Tensor before = kKernel.forward(ctx, problem.input, problem.mask).o_THV;
  for (int64_t changed : {0, 31, 32, 100, 127, 128, 189, 190, 299}) {
    const Problem kept = problem;
    for (Tensor* tensor : {&problem.input.k_SKD, &problem.input.v_SKV}) {
      *tensor = tensor->clone();
      for (int64_t d = 0; d < 8; ++d) tensor->data<float>()[changed * 8 + d] += 3;
    }
    const Tensor after = kKernel.forward(ctx, problem.input, problem.mask).o_THV;
    problem = kept;
    const int64_t end = changed < 190 ? 190 : T;
    for (int64_t t = 0; t < T; ++t)
      EXPECT_EQ(!bitwise_equal(before.slice(0, t, 1), after.slice(0, t, 1)),
                t >= changed && t < end)
          << "key " << changed << ", query " << t;
  }
}

TEST(SoftmaxCpu, ScoresFarBeyondTheRangeOfExpStayAccurate) {
  Context ctx;
  Problem problem = make_problem(ctx, 200, 200, {}, documents({200}), DType::kF64);
  // Scores of 10^4 and more, whose own rounding of 10^-12 is what remains.
  problem.input.scale = 4000;
  expect_equal_to_definition(ctx, problem, {.o = 1e-10, .lse = 1e-13, .gradient = 1e-7});
  problem.input.scale = -300;
  expect_equal_to_definition(ctx, problem, {.o = 1e-11, .lse = 1e-13, .gradient = 1e-8});
}

TEST(SoftmaxCpu, NotANumberReachesExactlyTheRowsThatSeeIt) {
  Context ctx;
  const Problem problem =
      make_problem(ctx, 60, 60, {.H = 1, .K = 1}, documents({40, 20}), DType::kF32);
  problem.input.k_SKD.data<float>()[25 * 8 + 3] = std::nanf("");
  const SoftmaxBlockOutput found = kKernel.forward(ctx, problem.input, problem.mask);
  for (int64_t t = 0; t < 60; ++t) {
    EXPECT_EQ(std::isnan(found.lse_TH.data<float>()[t]), t >= 25 && t < 40) << t;
    EXPECT_EQ(std::isnan(found.o_THV.data<float>()[t * 8]), t >= 25 && t < 40) << t;
  }
}

// Peak bytes beyond what is live and what is returned.
int64_t scratch_bytes(int64_t T, bool with_backward) {
  Context ctx;
  const Problem problem =
      make_problem(ctx, T, T, {.H = 2, .K = 1, .D = 16, .V = 16}, documents({T}), DType::kF32);
  Result result = run(ctx, kKernel, problem);
  const int64_t live = ctx.memory->live_bytes();
  ctx.memory->reset_peak();
  if (with_backward) {
    kKernel.backward(ctx, problem.input, problem.mask, result.gradients);
    return ctx.memory->peak_bytes() - live;
  }
  const SoftmaxBlockOutput output = kKernel.forward(ctx, problem.input, problem.mask);
  return ctx.memory->peak_bytes() - ctx.memory->live_bytes();
}

TEST(SoftmaxCpu, ScratchDoesNotGrowWithTheLength) {
  for (bool with_backward : {false, true}) {
    const int64_t expected = scratch_bytes(512, with_backward);
    EXPECT_GT(expected, 0);
    EXPECT_LE(expected, 256 << 10);
    EXPECT_EQ(scratch_bytes(1024, with_backward), expected);
    EXPECT_EQ(scratch_bytes(2500, with_backward), expected);
  }
}

TEST(SoftmaxCpu, RefusesTensorsThatDoNotFit) {
  Context ctx;
  const Problem good = make_problem(ctx, 10, 10, {}, documents({10}), DType::kF32);
  auto refuses = [&](const std::string& name, auto&& change) {
    Problem bad = good;
    change(bad);
    expect_error(ErrorCode::kInternal, {name}, [&] { run(ctx, kKernel, bad); });
  };
  refuses("k must", [&](Problem& p) { p.input.k_SKD = ctx.zeros({10, 2, 9}, DType::kF32); });
  refuses("k must", [&](Problem& p) { p.input.k_SKD = p.input.k_SKD.to(DType::kBF16); });
  refuses("v must", [&](Problem& p) { p.input.v_SKV = ctx.zeros({9, 2, 8}, DType::kF32); });
  refuses("q must", [&](Problem& p) { p.input.q_THD = p.input.q_THD.slice(2, 0, 7); });
  refuses("kv_head", [&](Problem& p) { p.input.kv_head = {0, 0, 1}; });
  refuses("kv_head", [&](Problem& p) { p.input.kv_head = {0, 0, 1, 2}; });
  refuses("kv_head", [&](Problem& p) { p.input.kv_head = {0, 1, 0, 1}; });
  refuses("do must", [&](Problem& p) { p.do_THV = p.do_THV.to(DType::kBF16); });
}

TEST(SoftmaxCpu, RefusesMasksThatDoNotFit) {
  Context ctx;
  Problem problem = make_problem(ctx, 10, 10, {}, documents({10}), DType::kF32);
  const MaskPiece good = problem.mask.pieces.at(0);
  auto refuses = [&](const std::string& part, std::vector<MaskPiece> pieces) {
    problem.mask = {.pieces = std::move(pieces)};
    expect_error(ErrorCode::kInternal, {part}, [&] { run(ctx, kKernel, problem); });
  };
  MaskPiece piece = good;
  piece.k_length = 11;
  refuses("block of", {piece});
  piece = good;
  piece.q_begin = 1;
  refuses("block of", {piece});
  piece = good;
  piece.q_begin = -1;
  refuses("block of", {piece});
  piece = good;
  piece.q_position = 1;
  refuses("differ", {good, piece});
  piece = good;
  piece.q_begin = 5;
  piece.q_length = 5;
  refuses("overlap", {good, piece});
}

}  // namespace
}  // namespace longship
