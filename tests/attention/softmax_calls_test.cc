// Blocks as rounds of attention calls, each executed by plain loops, against the definition.
#include "attention/softmax_calls.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/dice.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/op_check.h"
#include "tests/support/plain_calls.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::Dice;
using testing::NaiveSoftmax;
using testing::PlainCalls;
using testing::random_tensor;
using testing::relative_rms;

const NaiveSoftmax kDefinition;

struct Block {
  SoftmaxBlockInput input;
  BlockMask mask;
  Tensor do_THV;
};

// Some queries of one rank over the keys of another, in documents of up to 30 tokens.
Block random_block(Context& ctx, Dice& dice, std::vector<int64_t> kv_head, DType dtype) {
  std::vector<int64_t> cu_seqlens = {0};
  const int64_t num_documents = 1 + dice.below(14);
  for (int64_t d = 0; d < num_documents; ++d)
    cu_seqlens.push_back(cu_seqlens.back() + dice.one_of({1, 1, 3, dice.below(30)}));
  const int num_ranks = 1 + static_cast<int>(dice.below(3));
  const auto plan =
      SequencePlan::make(cu_seqlens, dice.one_in(2) ? Layout::kZigzag : Layout::kContiguous,
                         num_ranks, static_cast<int>(dice.below(num_ranks)));
  MaskRule rule{
      .causal = !dice.one_in(4), .window = dice.one_of({0, 0, 1, 2, 7}), .anchor = dice.one_in(4)};
  if (rule.window > 0) rule.num_sink_tokens = dice.one_of({0, 1, 3});
  const int key_rank = static_cast<int>(dice.below(num_ranks));
  const int64_t T = plan.num_local_tokens(), S = plan.num_tokens(key_rank);
  const auto H = static_cast<int64_t>(kv_head.size()), K = kv_head.back() + 1;
  auto random = [&](Shape shape, uint64_t seed) {
    return random_tensor(ctx, std::move(shape), seed).to(dtype);
  };
  return {.input = {.q_THD = random({T, H, 5}, 1),
                    .k_SKD = random({S, K, 5}, 2),
                    .v_SKV = random({S, K, 3}, 3),
                    .kv_head = std::move(kv_head),
                    .scale = 0.4},
          .mask = document_mask(plan.local_segments(), plan.segments(key_rank), rule),
          .do_THV = random({T, H, 3}, 4)};
}

SoftmaxCalls kernel_of(Dice& dice) {
  return SoftmaxCalls(std::make_unique<PlainCalls>(),
                      CallPlanOptions{.longest_causal = dice.one_of({5, 1000}), .tile_rows = 3});
}

struct Gradients {
  Tensor dq_THD, dk_SKD, dv_SKV;
};

// Adds to or replaces `start`, in tensors of `dtype`. `output` is that of the whole rows.
Gradients gradients_of(Context& ctx, const SoftmaxBlock& kernel, const Block& block,
                       const SoftmaxBlockOutput& output, const Gradients& start, bool write_dq,
                       bool write_dkv, DType dtype) {
  auto copy = [&](const Tensor& tensor) {
    const Tensor made = ctx.empty(tensor.shape(), dtype);
    made.copy_from(tensor);
    return made;
  };
  const Gradients found = {copy(start.dq_THD), copy(start.dk_SKD), copy(start.dv_SKV)};
  const Tensor o_THV = output.o_THV.to(block.input.q_THD.dtype());
  kernel.backward(ctx, block.input, block.mask,
                  {.do_THV = block.do_THV,
                   .lse_TH = output.lse_TH,
                   .delta_or_o = row_term_of(ctx, kernel, o_THV, block.do_THV),
                   .dq_THD = found.dq_THD,
                   .dk_SKD = found.dk_SKD,
                   .dv_SKV = found.dv_SKV,
                   .write_dq = write_dq,
                   .write_dkv = write_dkv});
  return found;
}

// Documents of one token alone have gradients of zero, up to rounding.
void expect_near(const Tensor& found, const Tensor& expected, double bound) {
  Context ctx;
  const Tensor zeros = ctx.zeros(found.shape(), DType::kF64);
  if (relative_rms(found, zeros) < 1e-6 && relative_rms(expected, zeros) < 1e-6) return;
  EXPECT_LE(relative_rms(found, expected), bound);
}

void expect_equal_to_definition(const std::vector<int64_t>& kv_head, DType dtype, double bound,
                                int num_seeds) {
  for (uint64_t seed = 0; seed < static_cast<uint64_t>(num_seeds); ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Context ctx;
    ctx.memory->set_poison(true);
    Dice dice(seed);
    const Block block = random_block(ctx, dice, kv_head, dtype);
    const SoftmaxCalls kernel = kernel_of(dice);
    const DType sums = accumulator_dtype(dtype);
    const SoftmaxBlockOutput expected = kDefinition.forward(ctx, block.input, block.mask);
    const SoftmaxBlockOutput found =
        kernel.forward(ctx, block.input, block.mask, dice.one_in(2) ? sums : dtype);
    EXPECT_LE(relative_rms(found.o_THV, expected.o_THV), bound) << "o";
    for (int64_t i = 0; i < expected.lse_TH.numel(); ++i) {
      const double a = found.lse_TH.to(DType::kF64).data<double>()[i];
      const double b = expected.lse_TH.to(DType::kF64).data<double>()[i];
      ASSERT_TRUE(a == b || std::abs(a - b) <= bound * std::max(1.0, std::abs(b))) << "lse " << i;
    }
    const bool write_dq = dice.one_in(2), write_dkv = dice.one_in(2);
    const bool rounded = write_dq && write_dkv && dice.one_in(2);
    auto start = [&](const Tensor& like, uint64_t of) {
      return random_tensor(ctx, like.shape(), of).to(sums);
    };
    const Gradients before = {start(block.input.q_THD, 5), start(block.input.k_SKD, 6),
                              start(block.input.v_SKV, 7)};
    const Gradients g = gradients_of(ctx, kernel, block, expected, before, write_dq, write_dkv,
                                     rounded ? dtype : sums);
    const Gradients e =
        gradients_of(ctx, kDefinition, block, expected, before, write_dq, write_dkv, sums);
    expect_near(g.dq_THD, e.dq_THD, 4 * bound);
    expect_near(g.dk_SKD, e.dk_SKD, 4 * bound);
    expect_near(g.dv_SKV, e.dv_SKV, 4 * bound);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(SoftmaxCalls, EqualTheDefinitionForRandomBlocks) {
  expect_equal_to_definition({0, 0, 1, 1}, DType::kF64, 1e-13, 150);
}

// What uneven shares of heads look like on a rank.
TEST(SoftmaxCalls, EqualTheDefinitionForUnevenGroupsOfHeads) {
  expect_equal_to_definition({0, 1, 1, 2, 2}, DType::kF64, 1e-13, 40);
  expect_equal_to_definition({1, 1, 3}, DType::kF64, 1e-13, 40);
}

TEST(SoftmaxCalls, PartsThatTheKernelRoundsAreMergedAndAddedInFp32) {
  expect_equal_to_definition({0, 0, 1, 1}, DType::kBF16, 4e-3, 80);
}

TEST(SoftmaxCalls, NothingVisibleGivesMinusInfinityAndZero) {
  Context ctx;
  ctx.memory->set_poison(true);
  Dice dice(1);
  Block block = random_block(ctx, dice, {0, 0}, DType::kF32);
  block.mask = {};
  const SoftmaxCalls kernel = kernel_of(dice);
  const SoftmaxBlockOutput found = kernel.forward(ctx, block.input, block.mask);
  for (int64_t i = 0; i < found.lse_TH.numel(); ++i)
    EXPECT_EQ(found.lse_TH.data<float>()[i], -std::numeric_limits<float>::infinity());
  EXPECT_EQ(relative_rms(found.o_THV, ctx.zeros(found.o_THV.shape(), DType::kF32)), 0);
  const Gradients start = {block.input.q_THD, block.input.k_SKD, block.input.v_SKV};
  const Gradients written = gradients_of(ctx, kernel, block, found, start, true, true, DType::kF32);
  EXPECT_TRUE(bitwise_equal(written.dq_THD, ctx.zeros(written.dq_THD.shape(), DType::kF32)));
  const Gradients added = gradients_of(ctx, kernel, block, found, start, false, false, DType::kF32);
  EXPECT_TRUE(bitwise_equal(added.dk_SKD, start.dk_SKD));
}

}  // namespace
}  // namespace longship
