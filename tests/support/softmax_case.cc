#include "tests/support/softmax_case.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/gradient_check.h"
#include "tests/support/naive_softmax.h"

namespace longship::testing {

std::vector<int64_t> cu_seqlens_of(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> cu_seqlens = {0};
  for (int64_t length : lengths) cu_seqlens.push_back(cu_seqlens.back() + length);
  return cu_seqlens;
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

Tensor gather(const Context& ctx, const Group& sp, const SequencePlan& plan, const Tensor& local) {
  Shape shape = local.shape();
  shape[0] = plan.num_tokens();
  const Tensor by_rank = ctx.empty(shape, local.dtype());
  sp.all_gather("test.gather", local.contiguous(), by_rank, plan.tokens_per_rank()).wait();
  return plan.unshard(ctx, by_rank);
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

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.num_bytes())) == 0;
}

bool same_bits(const AttentionResults& a, const AttentionResults& b) {
  for (size_t i = 0; i < 3; ++i)
    if (!same_bits(a.gradients()[i].second, b.gradients()[i].second)) return false;
  const bool has_sink = a.dsink_H.defined();
  return same_bits(a.o_THV, b.o_THV) && has_sink == b.dsink_H.defined() &&
         (!has_sink || same_bits(a.dsink_H, b.dsink_H));
}

}  // namespace longship::testing
