// Softmax attention on a GPU against the CPU's in fp64: blocks, and whole schedules on one rank.
#include <gtest/gtest.h>

#include <cmath>

#include "attention/cuda/cudnn_attention.h"
#include "attention/softmax_calls.h"
#include "attention/softmax_cpu.h"
#include "tests/support/dice.h"
#include "tests/support/gpu_check.h"
#include "tests/support/gpu_softmax_case.h"
#include "tests/support/softmax_candidates.h"

namespace longship {
namespace {

using testing::AttentionBatch;
using testing::AttentionHeads;
using testing::AttentionResults;
using testing::cu_seqlens_of;
using testing::gpu_batch;
using testing::kGpuForwardBound;
using testing::kGpuGradientBound;
using testing::kGpuHeads;
using testing::poisoned_gpu;
using testing::random_tensor;
using testing::relative_rms;
using testing::run_on_one_rank;

const SoftmaxCpu kCpu;

SoftmaxCalls gpu_kernel(bool deterministic = false, const CallPlanOptions& options = {}) {
  return SoftmaxCalls(
      std::make_unique<CudnnAttention>(CudnnAttentionOptions{.deterministic = deterministic}),
      options);
}

Variable sink_logit(int64_t num_heads) {
  Context host;
  return random_tensor(host, {num_heads}, 5).to(DType::kF32);
}

void expect_equal_to_cpu(const SoftmaxSchedule& schedule, const AttentionBatch& batch) {
  SCOPED_TRACE(fmt::format("cu_seqlens {}, {}", fmt::join(batch.cu_seqlens, ","),
                           testing::mask_text(batch.options)));
  Context gpu = poisoned_gpu(), cpu;
  testing::expect_near(run_on_one_rank(gpu, batch, schedule),
                       run_on_one_rank(cpu, batch.to(DType::kF64), *make_local(kCpu)),
                       kGpuForwardBound, kGpuGradientBound);
}

// The last batch has documents of one token in a row, and empty ones.
std::vector<std::vector<int64_t>> packed_lengths() {
  return {{512}, {1}, {700, 1, 33, 129, 0, 64}, {1, 1, 1, 0, 200, 1, 1, 3, 1}};
}

TEST(SoftmaxGpu, EqualsTheCpuForPackedDocuments) {
  const SoftmaxCalls kernel = gpu_kernel();
  for (const auto& lengths : packed_lengths())
    expect_equal_to_cpu(*make_local(kernel), gpu_batch(lengths));
}

TEST(SoftmaxGpu, EqualsTheCpuForEveryHeadSizeAndGroup) {
  const SoftmaxCalls kernel = gpu_kernel();
  for (const AttentionHeads heads : {AttentionHeads{4, 4, 128, 128},
                                     {8, 1, 128, 128},
                                     {4, 2, 256, 256},
                                     {2, 2, 192, 128},
                                     {6, 3, 96, 96},
                                     {3, 1, 80, 80}})
    expect_equal_to_cpu(*make_local(kernel), gpu_batch({300, 77}, heads));
}

TEST(SoftmaxGpu, EqualsTheCpuUnderEveryMask) {
  const SoftmaxCalls kernel = gpu_kernel();
  const std::vector<int64_t> lengths = {300, 1, 129, 40};
  for (AttentionOptions options :
       {AttentionOptions{.causal = false}, AttentionOptions{.window = 1},
        AttentionOptions{.window = 64}, AttentionOptions{.window = 100, .causal = false},
        AttentionOptions{.window = 50, .num_sink_tokens = 4}, AttentionOptions{.anchor = true},
        AttentionOptions{.window = 33, .num_sink_tokens = 2, .anchor = true}})
    for (const bool has_sink : {false, true}) {
      if (has_sink) options.sink_logit_H = sink_logit(4);
      expect_equal_to_cpu(*make_local(kernel), gpu_batch(lengths, kGpuHeads, options));
    }
}

TEST(SoftmaxGpu, TilesOfALongDocumentEqualTheCpu) {
  const SoftmaxCalls kernel = gpu_kernel(false, {.longest_causal = 256, .tile_rows = 256});
  expect_equal_to_cpu(*make_local(kernel), gpu_batch({1024, 5, 700}));
}

// What a rank of zigzag or of a halo computes: any queries over any keys, some of which see none.
TEST(SoftmaxGpu, BlocksOfTwoRanksEqualTheCpu) {
  const SoftmaxCalls kernel = gpu_kernel();
  const Context gpu = poisoned_gpu();
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    testing::Dice dice(seed);
    Context host;
    std::vector<int64_t> lengths;
    for (int d = 0; d < 5; ++d) lengths.push_back(dice.one_of({1, 400, dice.below(300)}));
    const auto plan = SequencePlan::make(cu_seqlens_of(lengths),
                                         dice.one_in(2) ? Layout::kZigzag : Layout::kContiguous, 2,
                                         static_cast<int>(dice.below(2)));
    const int key_rank = static_cast<int>(dice.below(2));
    MaskRule rule{.window = dice.one_of({0, 0, 70})};
    const BlockMask mask = document_mask(plan.local_segments(), plan.segments(key_rank), rule);
    const int64_t T = plan.num_local_tokens(), S = plan.num_tokens(key_rank);
    auto random = [&](Shape shape, uint64_t of) {
      return random_tensor(host, std::move(shape), of).to(DType::kBF16).to(DType::kF64);
    };
    // Uneven groups of heads, as ulysses deals them.
    SoftmaxBlockInput input{.q_THD = random({T, 5, 64}, 1),
                            .k_SKD = random({S, 3, 64}, 2),
                            .v_SKV = random({S, 3, 64}, 3),
                            .kv_head = {0, 1, 1, 2, 2},
                            .scale = 0.125};
    const Tensor do_THV = random({T, 5, 64}, 4);
    auto results = [&](Context ctx, const SoftmaxBlock& block_kernel, DType dtype) {
      SoftmaxBlockInput in = input;
      for (Tensor* tensor : {&in.q_THD, &in.k_SKD, &in.v_SKV})
        *tensor = tensor->to(dtype).to(ctx.memory);
      const Tensor grad = do_THV.to(dtype).to(ctx.memory);
      const SoftmaxBlockOutput out = block_kernel.forward(ctx, in, mask);
      const DType sums = accumulator_dtype(dtype);
      // The sums of dq start from those of do, and dk and dv are written.
      SoftmaxBlockBackward gradients{.do_THV = grad,
                                     .lse_TH = out.lse_TH,
                                     .delta_or_o = row_term_of(ctx, block_kernel, out.o_THV, grad),
                                     .dq_THD = ctx.empty(grad.shape(), sums),
                                     .dk_SKD = ctx.empty(in.k_SKD.shape(), sums),
                                     .dv_SKV = ctx.empty(in.v_SKV.shape(), sums),
                                     .write_dkv = true};
      gradients.dq_THD.copy_from(grad);
      block_kernel.backward(ctx, in, mask, gradients);
      std::vector<Tensor> found;
      for (const Tensor& tensor :
           {out.o_THV, gradients.dq_THD, gradients.dk_SKD, gradients.dv_SKV, out.lse_TH})
        found.push_back(tensor.to(host.memory).to(DType::kF64));
      return found;
    };
    const auto found = results(gpu, kernel, DType::kBF16);
    const auto expected = results(host, kCpu, DType::kF64);
    for (size_t i = 0; i < 4; ++i)
      EXPECT_LE(relative_rms(found[i], expected[i]), i == 0 ? kGpuForwardBound : kGpuGradientBound)
          << i;
    for (int64_t i = 0; i < found[4].numel(); ++i) {
      const double a = found[4].data<double>()[i], b = expected[4].data<double>()[i];
      ASSERT_TRUE(a == b || std::abs(a - b) <= 1e-3) << "lse " << a << ", expected " << b;
    }
  }
}

TEST(SoftmaxGpu, EveryScheduleOfOneRankEqualsTheCpu) {
  const SoftmaxCalls kernel = gpu_kernel();
  for (const Strategy& strategy : strategies()) {
    if (strategy.softmax == nullptr) continue;
    const auto schedule = strategy.softmax(Group::self(), kernel);
    for (const int64_t window : {0, 60})
      for (const bool has_sink : {false, true}) {
        AttentionOptions options{.window = window};
        if (has_sink) options.sink_logit_H = sink_logit(4);
        if (!strategy.refusal(testing::use_of(options, 1, Layout::kContiguous)).empty()) continue;
        SCOPED_TRACE(strategy.name);
        expect_equal_to_cpu(*schedule, gpu_batch({260, 1, 90}, kGpuHeads, options));
      }
  }
}

TEST(SoftmaxGpu, DeterministicRunsGiveTheSameBits) {
  const SoftmaxCalls kernel = gpu_kernel(true);
  const AttentionBatch batch = gpu_batch({700, 1, 300});
  const auto schedule = make_local(kernel);
  auto results = [&] {
    Context gpu = gpu_context(0);
    return run_on_one_rank(gpu, batch, *schedule);
  };
  const AttentionResults once = results();
  for (int again = 0; again < 3; ++again) EXPECT_TRUE(testing::same_bits(once, results()));
  expect_equal_to_cpu(*schedule, batch);
}

}  // namespace
}  // namespace longship
