// What the tiled kernel promises beside values: rows without keys, which queries a key reaches,
// bits, memory, and what it refuses.
#include "attention/softmax_cpu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/attention/softmax_problem.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::documents;
using testing::expect_error;
using testing::make_problem;
using testing::relative_rms;
using testing::run;
using testing::SoftmaxProblem;
using testing::SoftmaxResult;

const SoftmaxCpu kKernel;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(SoftmaxCpu, RowsWithoutKeysGiveMinusInfinityAndZero) {
  Context ctx;
  // Queries 0..9 come before the keys, 10..19 are of another document, 20..29 see keys.
  const std::vector<Segment> queries = {
      {.document = 0, .position = 0, .length = 30, .slot = 0},
      {.document = 7, .position = 0, .length = 10, .slot = 30},
  };
  const std::vector<Segment> keys = {{.document = 0, .position = 10, .length = 15, .slot = 2}};
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const SoftmaxProblem problem =
        make_problem(ctx, 40, 20, {}, document_mask(queries, keys, {}), dtype);
    const SoftmaxResult found = run(ctx, kKernel, problem);
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
    const SoftmaxProblem problem = make_problem(ctx, T, S, {}, BlockMask{}, DType::kF32);
    const SoftmaxResult found = run(ctx, kKernel, problem);
    EXPECT_EQ(found.output.o_THV.shape(), (Shape{T, 4, 8}));
    for (int64_t i = 0; i < found.output.lse_TH.numel(); ++i)
      EXPECT_EQ(found.output.lse_TH.data<float>()[i], -std::numeric_limits<float>::infinity());
    EXPECT_EQ(relative_rms(found.output.o_THV, found.output.o_THV), 0);
  }
  SoftmaxProblem headless = make_problem(ctx, 9, 9, {.H = 0, .K = 1}, documents({9}), DType::kF32);
  EXPECT_EQ(run(ctx, kKernel, headless).output.o_THV.shape(), (Shape{9, 0, 8}));
}

TEST(SoftmaxCpu, BitsDoNotDependOnTheNumberOfThreads) {
  const BlockMask mask = documents({1, 260, 33, 77});
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    Context one;
    const SoftmaxProblem problem =
        make_problem(one, 371, 371, {.H = 4, .K = 2, .D = 16, .V = 24}, mask, dtype);
    const SoftmaxResult expected = run(one, kKernel, problem);
    for (int num_threads : {2, 3, 8}) {
      Context many;
      many.num_threads = num_threads;
      const SoftmaxResult found = run(many, kKernel, problem);
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
  SoftmaxProblem problem =
      make_problem(ctx, T, T, {.H = 1, .K = 1}, documents({190, 110}), DType::kF32);
  const Tensor before = kKernel.forward(ctx, problem.input, problem.mask).o_THV;
  for (int64_t changed : {0, 31, 32, 100, 127, 128, 189, 190, 299}) {
    const SoftmaxProblem kept = problem;
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

TEST(SoftmaxCpu, NotANumberReachesExactlyTheRowsThatSeeIt) {
  Context ctx;
  const SoftmaxProblem problem =
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
  const SoftmaxProblem problem =
      make_problem(ctx, T, T, {.H = 2, .K = 1, .D = 16, .V = 16}, documents({T}), DType::kF32);
  SoftmaxResult result = run(ctx, kKernel, problem);
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
  const SoftmaxProblem good = make_problem(ctx, 10, 10, {}, documents({10}), DType::kF32);
  auto refuses = [&](const std::string& name, auto&& change) {
    SoftmaxProblem bad = good;
    change(bad);
    expect_error(ErrorCode::kInternal, {name}, [&] { run(ctx, kKernel, bad); });
  };
  refuses("k must", [&](SoftmaxProblem& p) { p.input.k_SKD = ctx.zeros({10, 2, 9}, DType::kF32); });
  refuses("k must", [&](SoftmaxProblem& p) { p.input.k_SKD = p.input.k_SKD.to(DType::kBF16); });
  refuses("v must", [&](SoftmaxProblem& p) { p.input.v_SKV = ctx.zeros({9, 2, 8}, DType::kF32); });
  refuses("q must", [&](SoftmaxProblem& p) { p.input.q_THD = p.input.q_THD.slice(2, 0, 7); });
  refuses("kv_head", [&](SoftmaxProblem& p) { p.input.kv_head = {0, 0, 1}; });
  refuses("kv_head", [&](SoftmaxProblem& p) { p.input.kv_head = {0, 0, 1, 2}; });
  refuses("kv_head", [&](SoftmaxProblem& p) { p.input.kv_head = {0, 1, 0, 1}; });
  refuses("do must", [&](SoftmaxProblem& p) { p.do_THV = p.do_THV.to(DType::kBF16); });
}

TEST(SoftmaxCpu, RefusesMasksThatDoNotFit) {
  Context ctx;
  SoftmaxProblem problem = make_problem(ctx, 10, 10, {}, documents({10}), DType::kF32);
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
