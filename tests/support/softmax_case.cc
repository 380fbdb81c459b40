#include "tests/support/softmax_case.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/gpu.h"
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

std::vector<AttentionOptions> all_masks(double scale, const Variable& sink_logit_H, int64_t unit) {
  return {
      {.scale = scale},
      {.scale = scale, .window = 4 * unit},
      {.scale = scale, .causal = false},
      {.scale = scale, .window = 5 * unit, .causal = false},
      {.scale = scale, .window = 4 * unit, .num_sink_tokens = 3},
      {.scale = scale, .window = 2, .num_sink_tokens = 5 * unit},
      {.scale = scale, .window = 9 * unit, .causal = false, .num_sink_tokens = 1},
      {.scale = scale, .anchor = true},
      {.scale = scale, .window = 6 * unit, .num_sink_tokens = 2, .anchor = true},
      {.scale = scale, .window = 3 * unit, .causal = false, .anchor = true},
      {.scale = scale, .sink_logit_H = sink_logit_H},
      {.scale = scale,
       .window = 5 * unit,
       .num_sink_tokens = 2,
       .anchor = true,
       .sink_logit_H = sink_logit_H},
  };
}

std::string mask_text(const AttentionOptions& o) {
  return fmt::format("causal {}, window {}, {} sink tokens, anchor {}, sink logit {}", o.causal,
                     o.window, o.num_sink_tokens, o.anchor, o.sink_logit_H.defined());
}

AttentionBatch AttentionBatch::to(DType dtype) const {
  return {.cu_seqlens = cu_seqlens,
          .q_THD = q_THD.to(dtype),
          .k_TKD = k_TKD.to(dtype),
          .v_TKV = v_TKV.to(dtype),
          .do_THV = do_THV.to(dtype),
          .options = options};
}

AttentionBatch random_batch(Context& ctx, const std::vector<int64_t>& cu_seqlens,
                            AttentionHeads heads, DType dtype, const AttentionOptions& options) {
  const int64_t tokens = cu_seqlens.back();
  auto random = [&](int64_t num_heads, int64_t size, uint64_t seed) {
    return random_tensor(ctx, {tokens, num_heads, size}, seed).to(dtype);
  };
  return {.cu_seqlens = cu_seqlens,
          .q_THD = random(heads.query, heads.key_size, 1),
          .k_TKD = random(heads.kv, heads.key_size, 2),
          .v_TKV = random(heads.kv, heads.value_size, 3),
          .do_THV = random(heads.query, heads.value_size, 4),
          .options = options};
}

SequencePlan plan_of(const AttentionBatch& batch, Layout layout, const Group& sp) {
  return SequencePlan::make(batch.cu_seqlens, layout, sp.size(), sp.rank());
}

AttentionResults run(Context& ctx, const AttentionBatch& batch, const SoftmaxSchedule& schedule,
                     const SequencePlan& plan, const Group& sp) {
  Context host;
  host.memory = batch.q_THD.memory();
  auto leaf = [&](const Tensor& whole) {
    return Variable::leaf(upload(ctx, plan.shard(host, whole)));
  };
  auto whole = [&](const Tensor& local) {
    return gather(host, sp, plan, local.contiguous().to(host.memory));
  };
  Tape tape;
  ctx.tape = &tape;
  const Variable q = leaf(batch.q_THD), k = leaf(batch.k_TKD), v = leaf(batch.v_TKV);
  AttentionOptions options = batch.options;
  const bool has_sink = options.sink_logit_H.value().defined();
  if (has_sink) options.sink_logit_H = Variable::leaf(upload(ctx, options.sink_logit_H.value()));
  const Variable o = schedule.attend(ctx, q, k, v, plan, options);
  tape.backward(ctx, o, upload(ctx, plan.shard(host, batch.do_THV)));
  ctx.tape = nullptr;
  AttentionResults results = {.o_THV = whole(o.value()),
                              .dq_THD = whole(q.gradient()->sum()),
                              .dk_TKD = whole(k.gradient()->sum()),
                              .dv_TKV = whole(v.gradient()->sum()),
                              .dsink_H = {}};
  if (has_sink) {
    results.dsink_H = options.sink_logit_H.gradient()->sum().clone().to(host.memory);
    sp.all_reduce("test.sink", results.dsink_H).wait();
  }
  return results;
}

AttentionResults run_on_one_rank(Context& ctx, const AttentionBatch& batch,
                                 const SoftmaxSchedule& schedule) {
  const Group one = Group::self();
  return run(ctx, batch, schedule, plan_of(batch, Layout::kContiguous, one), one);
}

AttentionResults definition_of(const Context& ctx, const AttentionBatch& batch) {
  NaiveAttention found = naive_attention(ctx, batch.q_THD, batch.k_TKD, batch.v_TKV, batch.do_THV,
                                         batch.cu_seqlens, batch.options);
  return {.o_THV = std::move(found.o_THV),
          .dq_THD = std::move(found.dq_THD),
          .dk_TKD = std::move(found.dk_TKD),
          .dv_TKV = std::move(found.dv_TKV),
          .dsink_H = std::move(found.dsink_H)};
}

void expect_near(const AttentionResults& found, const AttentionResults& expected,
                 double forward_bound, double gradient_bound) {
  EXPECT_LE(relative_rms(found.o_THV, expected.o_THV), forward_bound) << "o";
  for (size_t i = 0; i < 3; ++i)
    EXPECT_LE(relative_rms(found.gradients()[i].second, expected.gradients()[i].second),
              gradient_bound)
        << found.gradients()[i].first;
  ASSERT_EQ(found.dsink_H.defined(), expected.dsink_H.defined());
  if (!expected.dsink_H.defined()) return;
  EXPECT_LE(relative_rms(found.dsink_H, expected.dsink_H), gradient_bound) << "dsink";
}

void expect_equal_to_definition(const Context& ctx, const AttentionBatch& batch,
                                const AttentionResults& found, double forward_bound,
                                double gradient_bound) {
  EXPECT_EQ(found.o_THV.dtype(), batch.q_THD.dtype());
  expect_near(found, definition_of(ctx, batch), forward_bound, gradient_bound);
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
