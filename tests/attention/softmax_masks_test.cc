// The kernel under every mask on one rank: tiles and blocks cut where masks begin and end.
#include <gtest/gtest.h>

#include <cmath>

#include "attention/softmax_cpu.h"
#include "parallel/softmax_schedule.h"
#include "runtime/ops/merge_partials.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::NaiveAttention;
using testing::random_tensor;
using testing::relative_rms;

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

std::string label_of(const AttentionOptions& o) {
  return fmt::format("causal {}, window {}, {} sink tokens, anchor {}, sink logit {}", o.causal,
                     o.window, o.num_sink_tokens, o.anchor, o.sink_logit_H.defined());
}

struct Sizes {
  int64_t H = 2, K = 1, D = 9, V = 5;
};

struct Inputs {
  std::vector<int64_t> cu_seqlens;
  Tensor q_THD, k_TKD, v_TKV, do_THV;
};

Inputs make_inputs(Context& ctx, const std::vector<int64_t>& cu_seqlens, const Sizes& sizes) {
  const int64_t T = cu_seqlens.back();
  auto random = [&](int64_t heads, int64_t size, uint64_t seed) {
    return random_tensor(ctx, {T, heads, size}, seed).to(DType::kF32);
  };
  return {cu_seqlens, random(sizes.H, sizes.D, 1), random(sizes.K, sizes.D, 2),
          random(sizes.K, sizes.V, 3), random(sizes.H, sizes.V, 4)};
}

// o, dq, dk, dv, and the gradient of the sink logit if there is one.
std::vector<Tensor> run(const Inputs& inputs, AttentionOptions options, DType dtype,
                        int num_threads = 1) {
  testing::TapeContext tape;
  tape.ctx.num_threads = num_threads;
  std::vector<Variable> leaves;
  for (const Tensor& tensor : {inputs.q_THD, inputs.k_TKD, inputs.v_TKV})
    leaves.push_back(Variable::leaf(tensor.to(dtype)));
  if (options.sink_logit_H.defined())
    leaves.push_back(Variable::leaf(options.sink_logit_H.value().clone()));
  if (options.sink_logit_H.defined()) options.sink_logit_H = leaves.back();
  const auto plan = SequencePlan::local(inputs.cu_seqlens);
  const Variable o =
      make_local(kKernel)->attend(tape.ctx, leaves[0], leaves[1], leaves[2], plan, options);
  tape.tape.backward(tape.ctx, o, inputs.do_THV.to(dtype));
  std::vector<Tensor> results = {o.value()};
  for (const Variable& leaf : leaves) results.push_back(leaf.gradient()->sum());
  return results;
}

void expect_equal_to_definition(Context& ctx, const Inputs& inputs, AttentionOptions options) {
  options.scale = 1 / std::sqrt(static_cast<double>(inputs.q_THD.dim(2)));
  SCOPED_TRACE(label_of(options));
  const NaiveAttention expected = testing::naive_attention(
      ctx, inputs.q_THD, inputs.k_TKD, inputs.v_TKV, inputs.do_THV, inputs.cu_seqlens, options);
  for (DType dtype : {DType::kF64, DType::kF32}) {
    const bool wide = dtype == DType::kF64;
    const std::vector<Tensor> found = run(inputs, options, dtype);
    EXPECT_LE(relative_rms(found[0], expected.o_THV), wide ? 1e-13 : 5e-7) << "o";
    const double bound = wide ? 1e-13 : 2e-6;
    EXPECT_LE(relative_rms(found[1], expected.dq_THD), bound) << "dq";
    EXPECT_LE(relative_rms(found[2], expected.dk_TKD), bound) << "dk";
    EXPECT_LE(relative_rms(found[3], expected.dv_TKV), bound) << "dv";
    if (expected.dsink_H.defined()) {
      EXPECT_LE(relative_rms(found[4], expected.dsink_H), bound) << "dsink";
    }
  }
}

TEST(SoftmaxCpuMasks, EqualTheDefinition) {
  Context ctx;
  const Inputs inputs = make_inputs(ctx, {0, 1, 1, 251, 321, 322}, {});
  for (const AttentionOptions& options : masks(ctx, 2))
    expect_equal_to_definition(ctx, inputs, options);
}

TEST(SoftmaxCpuMasks, EqualTheDefinitionForEveryHeadSize) {
  Context ctx;
  const std::pair<int64_t, int64_t> sizes[] = {
      {64, 64}, {96, 96}, {128, 128}, {192, 128}, {256, 256}};
  for (const auto& [D, V] : sizes) {
    SCOPED_TRACE(fmt::format("head size {}, value size {}", D, V));
    const Inputs inputs = make_inputs(ctx, {0, 30, 31, 110}, {.D = D, .V = V});
    expect_equal_to_definition(ctx, inputs, {.causal = false});
    expect_equal_to_definition(ctx, inputs,
                               {.window = 20,
                                .num_sink_tokens = 3,
                                .anchor = true,
                                .sink_logit_H = random_tensor(ctx, {2}, 9)});
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
  const Inputs inputs = make_inputs(ctx, {0, 1, 261, 294}, {.H = 4, .K = 2});
  for (const AttentionOptions& options : masks(ctx, 4)) {
    const std::vector<Tensor> expected = run(inputs, options, DType::kF32);
    for (int num_threads : {2, 5}) {
      const std::vector<Tensor> found = run(inputs, options, DType::kF32, num_threads);
      for (size_t i = 0; i < expected.size(); ++i)
        EXPECT_TRUE(bitwise_equal(found[i], expected[i])) << label_of(options) << ", tensor " << i;
    }
  }
}

// Blocks of keys one by one, merged, as rings do.
TEST(SoftmaxCpuMasks, BlocksOfKeysMergeIntoTheWhole) {
  Context ctx;
  const std::vector<int64_t> cu_seqlens = {0, 150, 201};
  const Inputs inputs = make_inputs(ctx, cu_seqlens, {});
  const SequencePlan whole = SequencePlan::local(cu_seqlens);
  for (const AttentionOptions& options : masks(ctx, 2)) {
    SoftmaxBlockInput block{.q_THD = inputs.q_THD.to(DType::kF64),
                            .k_SKD = {},
                            .v_SKV = {},
                            .kv_head = grouped_kv_heads(2, 1)};
    SoftmaxBlockOutput merged;
    for (int rank = 0; rank < 3; ++rank) {
      const auto plan = SequencePlan::make(cu_seqlens, Layout::kZigzag, 3, rank);
      block.k_SKD = plan.shard(ctx, inputs.k_TKD).to(DType::kF64);
      block.v_SKV = plan.shard(ctx, inputs.v_TKV).to(DType::kF64);
      const SoftmaxBlockOutput part = kKernel.forward(
          ctx, block,
          document_mask(whole.local_segments(), plan.local_segments(), options.mask_rule()));
      if (rank == 0)
        merged = part;
      else
        merge_partials(ctx, merged.o_THV, merged.lse_TH, part.o_THV, part.lse_TH);
    }
    AttentionOptions without_sink = options;
    without_sink.sink_logit_H = {};
    const NaiveAttention expected = testing::naive_attention(
        ctx, inputs.q_THD, inputs.k_TKD, inputs.v_TKV, inputs.do_THV, cu_seqlens, without_sink);
    EXPECT_LE(relative_rms(merged.o_THV, expected.o_THV), 1e-13) << label_of(options);
    EXPECT_LE(relative_rms(merged.lse_TH, expected.lse_TH), 1e-13) << label_of(options);
  }
}

}  // namespace
}  // namespace longship
