#include "tests/support/softmax_case.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/random.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/op_check.h"
#include "tests/support/whole_batch.h"

namespace longship::testing {

std::vector<int64_t> cu_seqlens_of(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> cu_seqlens = {0};
  for (int64_t length : lengths) cu_seqlens.push_back(cu_seqlens.back() + length);
  return cu_seqlens;
}

std::vector<std::vector<int64_t>> packed_batches() {
  std::vector<int64_t> random;
  for (uint64_t d = 0; d < 9; ++d)
    random.push_back(static_cast<int64_t>(d % 3 == 0 ? 1 : uniform_index(2, 7, d, 17)));
  return {cu_seqlens_of({61}), cu_seqlens_of(random), cu_seqlens_of({3, 0, 50, 1, 7, 0}),
          cu_seqlens_of({2, 1})};
}

AttentionBatch random_batch(Context& ctx, const std::vector<int64_t>& cu_seqlens,
                            AttentionHeads heads, DType dtype, const AttentionOptions& options) {
  constexpr int64_t kHeadSize = 6, kValueSize = 10;
  const int64_t tokens = cu_seqlens.back();
  auto random = [&](int64_t num_heads, int64_t size, uint64_t seed) {
    return random_tensor(ctx, {tokens, num_heads, size}, seed).to(dtype);
  };
  return {.cu_seqlens = cu_seqlens,
          .q_THD = random(heads.query, kHeadSize, 1),
          .k_TKD = random(heads.kv, kHeadSize, 2),
          .v_TKV = random(heads.kv, kValueSize, 3),
          .do_THV = random(heads.query, kValueSize, 4),
          .options = options};
}

SequencePlan plan_of(const AttentionBatch& batch, Layout layout, const Group& sp) {
  return SequencePlan::make(batch.cu_seqlens, layout, sp.size(), sp.rank());
}

AttentionResults run(Context& ctx, const AttentionBatch& batch, const SoftmaxSchedule& schedule,
                     const SequencePlan& plan, const Group& sp) {
  Tape tape;
  ctx.tape = &tape;
  const Variable q = Variable::leaf(plan.shard(ctx, batch.q_THD));
  const Variable k = Variable::leaf(plan.shard(ctx, batch.k_TKD));
  const Variable v = Variable::leaf(plan.shard(ctx, batch.v_TKV));
  AttentionOptions options = batch.options;
  const bool has_sink = options.sink_logit_H.value().defined();
  if (has_sink) options.sink_logit_H = Variable::leaf(options.sink_logit_H.value());
  const Variable o = schedule.attend(ctx, q, k, v, plan, options);
  tape.backward(ctx, o, plan.shard(ctx, batch.do_THV));
  ctx.tape = nullptr;
  AttentionResults results = {.o_THV = gather(ctx, sp, plan, o.value()),
                              .dq_THD = gather(ctx, sp, plan, q.gradient()->sum()),
                              .dk_TKD = gather(ctx, sp, plan, k.gradient()->sum()),
                              .dv_TKV = gather(ctx, sp, plan, v.gradient()->sum()),
                              .dsink_H = {}};
  if (has_sink) {
    results.dsink_H = options.sink_logit_H.gradient()->sum().clone();
    sp.all_reduce("test.sink", results.dsink_H).wait();
  }
  return results;
}

void expect_equal_to_definition(const Context& ctx, const AttentionBatch& batch,
                                const AttentionResults& found, double forward_bound,
                                double gradient_bound) {
  const NaiveAttention expected = naive_attention(ctx, batch.q_THD, batch.k_TKD, batch.v_TKV,
                                                  batch.do_THV, batch.cu_seqlens, batch.options);
  EXPECT_EQ(found.o_THV.dtype(), batch.q_THD.dtype());
  EXPECT_LE(relative_rms(found.o_THV, expected.o_THV), forward_bound) << "o";
  EXPECT_LE(relative_rms(found.dq_THD, expected.dq_THD), gradient_bound) << "dq";
  EXPECT_LE(relative_rms(found.dk_TKD, expected.dk_TKD), gradient_bound) << "dk";
  EXPECT_LE(relative_rms(found.dv_TKV, expected.dv_TKV), gradient_bound) << "dv";
  ASSERT_EQ(found.dsink_H.defined(), expected.dsink_H.defined());
  if (!expected.dsink_H.defined()) return;
  EXPECT_LE(relative_rms(found.dsink_H, expected.dsink_H), gradient_bound) << "dsink";
}

bool same_bits(const AttentionResults& a, const AttentionResults& b) {
  for (size_t i = 0; i < 3; ++i)
    if (!bitwise_equal(a.gradients()[i].second, b.gradients()[i].second)) return false;
  const bool has_sink = a.dsink_H.defined();
  return bitwise_equal(a.o_THV, b.o_THV) && has_sink == b.dsink_H.defined() &&
         (!has_sink || bitwise_equal(a.dsink_H, b.dsink_H));
}

void expect_reach_of_tokens(Context& ctx, const SoftmaxSchedule& schedule, Layout layout,
                            const Group& sp, const AttentionOptions& options) {
  const std::vector<int64_t> cu_seqlens = cu_seqlens_of({4, 1, 29, 0, 12, 1});
  AttentionBatch batch = random_batch(ctx, cu_seqlens, {4, 2}, DType::kF32, options);
  const SequencePlan plan = plan_of(batch, layout, sp);
  auto attend = [&] {
    const Variable o =
        schedule.attend(ctx, plan.shard(ctx, batch.q_THD), plan.shard(ctx, batch.k_TKD),
                        plan.shard(ctx, batch.v_TKV), plan, options);
    return gather(ctx, sp, plan, o.value());
  };
  const Tensor before = attend();
  for (int64_t changed : {0, 3, 4, 5, 17, 33, 34, 40, 46}) {
    const AttentionBatch kept = batch;
    for (Tensor* tensor : {&batch.q_THD, &batch.k_TKD, &batch.v_TKV}) {
      *tensor = tensor->clone();
      const Tensor row = tensor->slice(0, changed, 1);
      for (int64_t i = 0; i < row.numel(); ++i) row.data<float>()[i] += 1;
    }
    const Tensor after = attend();
    batch = kept;
    int64_t end = *std::upper_bound(cu_seqlens.begin(), cu_seqlens.end(), changed);
    if (options.window > 0) end = std::min(end, changed + options.window);
    EXPECT_EQ(changed_tokens(before, after), token_range(changed, end)) << "token " << changed;
  }
}

PeakBytes peaks_of(const SoftmaxSchedule& schedule, const SequencePlan& plan, AttentionHeads heads,
                   const AttentionOptions& options) {
  Context ctx;
  const AttentionBatch batch = random_batch(ctx, plan.cu_seqlens(), heads, DType::kF32, options);
  const Variable q = Variable::leaf(plan.shard(ctx, batch.q_THD));
  const Variable k = Variable::leaf(plan.shard(ctx, batch.k_TKD));
  const Variable v = Variable::leaf(plan.shard(ctx, batch.v_TKV));
  const Tensor do_THV = plan.shard(ctx, batch.do_THV);
  Tape tape;
  ctx.tape = &tape;
  auto peak_of = [&](auto&& work) {
    const int64_t live = ctx.memory->live_bytes();
    ctx.memory->reset_peak();
    work();
    return ctx.memory->peak_bytes() - live;
  };
  Variable o;
  const int64_t forward = peak_of([&] { o = schedule.attend(ctx, q, k, v, plan, options); });
  const int64_t backward = peak_of([&] { tape.backward(ctx, o, do_THV); });
  return {forward, backward};
}

int64_t bytes_with_rounding(int64_t elements) {
  return elements * 4 + elements / 2 + 1024;
}

}  // namespace longship::testing
