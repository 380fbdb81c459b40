// Softmax attention on a GPU against the CPU's in fp64: blocks, and whole schedules on one rank.
#include <gtest/gtest.h>

#include <cmath>

#include "attention/cuda/cudnn_attention.h"
#include "attention/softmax_calls.h"
#include "attention/softmax_cpu.h"
#include "attention/strategy.h"
#include "runtime/gpu.h"
#include "tests/support/dice.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"
#include "tests/support/softmax_case.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::cu_seqlens_of;
using testing::random_tensor;
using testing::relative_rms;

// Probabilities and score gradients are rounded to bf16 inside, and o enters the gradients.
constexpr double kForwardBound = 6e-3, kGradientBound = 1.2e-2;

const SoftmaxCpu kCpu;

SoftmaxCalls gpu_kernel(bool deterministic = false, const CallPlanOptions& options = {}) {
  return SoftmaxCalls(
      std::make_unique<CudnnAttention>(CudnnAttentionOptions{.deterministic = deterministic}),
      options);
}

Context poisoned_gpu() {
  const Context ctx = gpu_context(0);
  ctx.memory->set_poison(true);
  return ctx;
}

struct Sizes {
  int64_t H = 4, K = 2, D = 64, V = 64;
};

// A whole batch in fp64, of values that bf16 holds exactly.
struct Batch {
  std::vector<int64_t> cu_seqlens;
  Tensor q_THD, k_TKD, v_TKV, do_THV, sink_H;

  Batch(const std::vector<int64_t>& lengths, const Sizes& sizes)
      : cu_seqlens(cu_seqlens_of(lengths)) {
    Context ctx;
    const int64_t T = cu_seqlens.back();
    auto random = [&](Shape shape, uint64_t seed) {
      return random_tensor(ctx, std::move(shape), seed).to(DType::kBF16).to(DType::kF64);
    };
    q_THD = random({T, sizes.H, sizes.D}, 1);
    k_TKD = random({T, sizes.K, sizes.D}, 2);
    v_TKV = random({T, sizes.K, sizes.V}, 3);
    do_THV = random({T, sizes.H, sizes.V}, 4);
    sink_H = random({sizes.H}, 5);
  }
};

// On the host: o, dq, dk, dv, and the gradient of the sink logit if there is one.
std::vector<Tensor> run(Context ctx, const SoftmaxSchedule& schedule, const Batch& batch,
                        Layout layout, AttentionOptions options, bool sink_logit, DType dtype) {
  Tape tape;
  ctx.tape = &tape;
  std::vector<Variable> leaves;
  for (const Tensor& tensor : {batch.q_THD, batch.k_TKD, batch.v_TKV})
    leaves.push_back(Variable::leaf(tensor.to(dtype).to(ctx.memory)));
  if (sink_logit) {
    leaves.push_back(Variable::leaf(batch.sink_H.to(accumulator_dtype(dtype)).to(ctx.memory)));
    options.sink_logit_H = leaves.back();
  }
  options.scale = 1 / std::sqrt(static_cast<double>(batch.q_THD.dim(2)));
  const Variable o = schedule.attend(ctx, leaves[0], leaves[1], leaves[2],
                                     SequencePlan::make(batch.cu_seqlens, layout, 1, 0), options);
  tape.backward(ctx, o, batch.do_THV.to(dtype).to(ctx.memory));
  const auto host = std::make_shared<Memory>();
  std::vector<Tensor> results = {o.value().to(host)};
  for (const Variable& leaf : leaves) results.push_back(leaf.gradient()->sum().to(host));
  return results;
}

void expect_near(const std::vector<Tensor>& found, const std::vector<Tensor>& expected) {
  constexpr const char* kNames[] = {"o", "dq", "dk", "dv", "dsink"};
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_LE(relative_rms(found[i], expected[i]), i == 0 ? kForwardBound : kGradientBound)
        << kNames[i];
}

void expect_equal_to_cpu(const SoftmaxBlock& kernel, const Batch& batch,
                         const AttentionOptions& options = {}, bool sink_logit = false) {
  SCOPED_TRACE(fmt::format("cu_seqlens {}, causal {}, window {}, {} sink tokens, anchor {}",
                           fmt::join(batch.cu_seqlens, ","), options.causal, options.window,
                           options.num_sink_tokens, options.anchor));
  expect_near(run(poisoned_gpu(), *make_local(kernel), batch, Layout::kContiguous, options,
                  sink_logit, DType::kBF16),
              run(Context{}, *make_local(kCpu), batch, Layout::kContiguous, options, sink_logit,
                  DType::kF64));
}

// The last batch has documents of one token in a row, and empty ones.
std::vector<std::vector<int64_t>> packed_lengths() {
  return {{512}, {1}, {700, 1, 33, 129, 0, 64}, {1, 1, 1, 0, 200, 1, 1, 3, 1}};
}

TEST(SoftmaxGpu, EqualsTheCpuForPackedDocuments) {
  const SoftmaxCalls kernel = gpu_kernel();
  for (const auto& lengths : packed_lengths()) expect_equal_to_cpu(kernel, Batch(lengths, {}));
}

TEST(SoftmaxGpu, EqualsTheCpuForEveryHeadSizeAndGroup) {
  const SoftmaxCalls kernel = gpu_kernel();
  for (const Sizes& sizes : {Sizes{4, 4, 128, 128}, Sizes{8, 1, 128, 128}, Sizes{4, 2, 256, 256},
                             Sizes{2, 2, 192, 128}, Sizes{6, 3, 96, 96}, Sizes{3, 1, 80, 80}})
    expect_equal_to_cpu(kernel, Batch({300, 77}, sizes));
}

TEST(SoftmaxGpu, EqualsTheCpuUnderEveryMask) {
  const SoftmaxCalls kernel = gpu_kernel();
  const Batch batch({300, 1, 129, 40}, {});
  for (const AttentionOptions& options :
       {AttentionOptions{.causal = false}, AttentionOptions{.window = 1},
        AttentionOptions{.window = 64}, AttentionOptions{.window = 100, .causal = false},
        AttentionOptions{.window = 50, .num_sink_tokens = 4}, AttentionOptions{.anchor = true},
        AttentionOptions{.window = 33, .num_sink_tokens = 2, .anchor = true}})
    for (const bool sink_logit : {false, true})
      expect_equal_to_cpu(kernel, batch, options, sink_logit);
}

TEST(SoftmaxGpu, TilesOfALongDocumentEqualTheCpu) {
  const SoftmaxCalls kernel = gpu_kernel(false, {.longest_causal = 256, .tile_rows = 256});
  expect_equal_to_cpu(kernel, Batch({1024, 5, 700}, {}));
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
      EXPECT_LE(relative_rms(found[i], expected[i]), i == 0 ? kForwardBound : kGradientBound) << i;
    for (int64_t i = 0; i < found[4].numel(); ++i) {
      const double a = found[4].data<double>()[i], b = expected[4].data<double>()[i];
      ASSERT_TRUE(a == b || std::abs(a - b) <= 1e-3) << "lse " << a << ", expected " << b;
    }
  }
}

TEST(SoftmaxGpu, EverySchedulesOneRankEqualsTheCpu) {
  const SoftmaxCalls kernel = gpu_kernel();
  const Batch batch({260, 1, 90}, {});
  for (const Strategy& strategy : strategies()) {
    if (strategy.softmax == nullptr) continue;
    for (const int64_t window : {0, 60})
      for (const bool sink_logit : {false, true}) {
        const Layout layout = strategy.layouts.front();
        if (!strategy.refusal({.layout = layout, .window = window}).empty()) continue;
        SCOPED_TRACE(
            fmt::format("{}, window {}, sink logit {}", strategy.name, window, sink_logit));
        const auto schedule = strategy.softmax(Group::self(), kernel);
        expect_near(run(poisoned_gpu(), *schedule, batch, layout, {.window = window}, sink_logit,
                        DType::kBF16),
                    run(Context{}, *make_local(kCpu), batch, layout, {.window = window}, sink_logit,
                        DType::kF64));
      }
  }
}

TEST(SoftmaxGpu, DeterministicRunsGiveTheSameBits) {
  const SoftmaxCalls kernel = gpu_kernel(true);
  const Batch batch({700, 1, 300}, {});
  const auto schedule = make_local(kernel);
  auto results = [&] {
    return run(gpu_context(0), *schedule, batch, Layout::kContiguous, {}, false, DType::kBF16);
  };
  const auto once = results();
  for (int again = 0; again < 3; ++again) {
    const auto other = results();
    for (size_t i = 0; i < once.size(); ++i) EXPECT_TRUE(bitwise_equal(once[i], other[i])) << i;
  }
  expect_equal_to_cpu(kernel, batch);
}

}  // namespace
}  // namespace longship
