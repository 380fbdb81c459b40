// The kernel under every mask on one rank: tiles and blocks cut where masks begin and end.
#include <gtest/gtest.h>

#include <cmath>

#include "attention/softmax_cpu.h"
#include "parallel/softmax_schedule.h"
#include "runtime/ops/merge_partials.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/softmax_case.h"

namespace longship {
namespace {

using testing::AttentionBatch;
using testing::AttentionHeads;
using testing::AttentionResults;
using testing::expect_near;
using testing::mask_text;
using testing::NaiveAttention;
using testing::random_tensor;
using testing::relative_rms;
using testing::run_on_one_rank;
using testing::same_bits;

const SoftmaxCpu kKernel;

// Sinks and windows that end before, at and after the borders of panels, tiles and blocks.
std::vector<AttentionOptions> masks(Context& ctx, int64_t num_heads) {
  const Variable sink_logit_H = random_tensor(ctx, {num_heads}, 9);
  return {
      {.causal = false},
      {.window = 2, .causal = false},
      {.window = 33, .causal = false},
      {.window = 200, .causal = false},
      {.window = 1, .num_sink_tokens = 1},
      {.window = 20, .num_sink_tokens = 70},
      {.window = 129, .num_sink_tokens = 16},
      {.window = 17, .causal = false, .num_sink_tokens = 31},
      {.anchor = true},
      {.window = 64, .num_sink_tokens = 4, .anchor = true},
      {.causal = false, .anchor = true},
      {.window = 50, .num_sink_tokens = 3, .anchor = true, .sink_logit_H = sink_logit_H},
  };
}

constexpr AttentionHeads kHeads = {2, 1, 9, 5};

AttentionBatch make_batch(const std::vector<int64_t>& cu_seqlens, AttentionHeads heads,
                          AttentionOptions options) {
  Context ctx;
  options.scale = 1 / std::sqrt(static_cast<double>(heads.key_size));
  return testing::random_batch(ctx, cu_seqlens, heads, DType::kF32, options);
}

void expect_equal_to_definition(const AttentionBatch& batch) {
  SCOPED_TRACE(mask_text(batch.options));
  Context ctx;
  const AttentionResults expected = testing::definition_of(ctx, batch);
  auto run = [&](DType dtype) {
    return run_on_one_rank(ctx, batch.to(dtype), *make_local(kKernel));
  };
  expect_near(run(DType::kF64), expected, 1e-13, 1e-13);
  expect_near(run(DType::kF32), expected, 5e-7, 2e-6);
}

TEST(SoftmaxCpuMasks, EqualTheDefinition) {
  Context ctx;
  for (const AttentionOptions& options : masks(ctx, kHeads.query))
    expect_equal_to_definition(make_batch({0, 1, 1, 251, 321, 322}, kHeads, options));
}

TEST(SoftmaxCpuMasks, EqualTheDefinitionForEveryHeadSize) {
  Context ctx;
  const std::pair<int64_t, int64_t> sizes[] = {
      {64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}};
  for (const auto& [D, V] : sizes) {
    SCOPED_TRACE(fmt::format("head size {}, value size {}", D, V));
    for (const AttentionOptions& options : {AttentionOptions{.causal = false},
                                            {.window = 20,
                                            .num_sink_tokens = 3,
                                            .anchor = true,
                                            .sink_logit_H = random_tensor(ctx, {2}, 9)}})
      expect_equal_to_definition(make_batch({0, 30, 31, 110}, {2, 1, D, V}, options));
  }
}

TEST(SoftmaxCpuMasks, GradientsAreCentralDifferencesThoseOfTheSinkLogitToo) {
  Context ctx;
  const auto local = make_local(kKernel);
  const SequencePlan plan = SequencePlan::local({0, 5, 6, 6, 29});
  for (AttentionOptions options : {AttentionOptions{.scale = 0.4},
                                   {.scale = 0.4, .window = 4, .causal = false},
                                   {.scale = 0.4, .window = 3, .num_sink_tokens = 2},
                                   {.scale = 0.4, .anchor = true}})
    testing::check_gradients(
        [&](Context& c, const std::vector<Variable>& in) {
          options.sink_logit_H = in[3];
          return std::vector<Variable>{local->attend(c, in[0], in[1], in[2], plan, options)};
        },
        {random_tensor(ctx, {29, 4, 5}, 1), random_tensor(ctx, {29, 2, 5}, 2),
         random_tensor(ctx, {29, 2, 3}, 3), random_tensor(ctx, {4}, 4)},
        1e-6, 40);
}

TEST(SoftmaxCpuMasks, BitsDoNotDependOnTheNumberOfThreads) {
  Context ctx;
  for (const AttentionOptions& options : masks(ctx, 4)) {
    const AttentionBatch batch = make_batch({0, 1, 261, 294}, {4, 2, 9, 5}, options);
    const AttentionResults expected = run_on_one_rank(ctx, batch, *make_local(kKernel));
    for (int num_threads : {2, 5}) {
      Context many;
      many.num_threads = num_threads;
      EXPECT_TRUE(same_bits(run_on_one_rank(many, batch, *make_local(kKernel)), expected))
          << mask_text(options) << ", " << num_threads << " threads";
    }
  }
}

// Blocks of keys one by one, merged, as rings do.
TEST(SoftmaxCpuMasks, BlocksOfKeysMergeIntoTheWhole) {
  Context ctx;
  const std::vector<int64_t> cu_seqlens = {0, 150, 201};
  const SequencePlan whole = SequencePlan::local(cu_seqlens);
  for (const AttentionOptions& options : masks(ctx, kHeads.query)) {
    const AttentionBatch batch = make_batch(cu_seqlens, kHeads, options);
    SoftmaxBlockInput block{.q_THD = batch.q_THD.to(DType::kF64),
                            .k_SKD = {},
                            .v_SKV = {},
                            .kv_head = grouped_kv_heads(kHeads.query, kHeads.kv),
                            .scale = batch.options.scale};
    SoftmaxBlockOutput merged;
    for (int rank = 0; rank < 3; ++rank) {
      const auto plan = SequencePlan::make(cu_seqlens, Layout::kZigzag, 3, rank);
      block.k_SKD = plan.shard(ctx, batch.k_TKD).to(DType::kF64);
      block.v_SKV = plan.shard(ctx, batch.v_TKV).to(DType::kF64);
      const SoftmaxBlockOutput part = kKernel.forward(
          ctx, block,
          document_mask(whole.local_segments(), plan.local_segments(), options.mask_rule()));
      if (rank == 0)
        merged = part;
      else
        merge_partials(ctx, merged.o_THV, merged.lse_TH, part.o_THV, part.lse_TH);
    }
    AttentionOptions without_sink = batch.options;
    without_sink.sink_logit_H = {};
    const NaiveAttention expected = testing::naive_attention(
        ctx, batch.q_THD, batch.k_TKD, batch.v_TKV, batch.do_THV, cu_seqlens, without_sink);
    EXPECT_LE(relative_rms(merged.o_THV, expected.o_THV), 1e-13) << mask_text(options);
    EXPECT_LE(relative_rms(merged.lse_TH, expected.lse_TH), 1e-13) << mask_text(options);
  }
}

}  // namespace
}  // namespace longship
