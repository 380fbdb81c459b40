#include "attention/softmax_calls.h"

#include <limits>
#include <span>

#include "parallel/head_range.h"
#include "runtime/ops/accumulate.h"
#include "runtime/ops/fill.h"
#include "runtime/ops/merge_partials.h"

namespace longship {
namespace {

constexpr double kNoKey = -std::numeric_limits<double>::infinity();
// A round's results are joined range by range; beyond this many ranges, as one that spans them all.
constexpr size_t kMostRanges = 8;

bool covers_all(const std::vector<RowRange>& ranges, int64_t num_rows) {
  return num_rows == 0 || (ranges.size() == 1 && ranges[0].count == num_rows);
}

std::vector<RowRange> few(const std::vector<RowRange>& ranges) {
  if (ranges.size() <= kMostRanges) return ranges;
  return {cover(ranges.front(), ranges.back())};
}

// A gradient on its way from the rounds of a plan into the tensor of the caller.
class GradientSum {
 public:
  // The kernel gives it in `dtype`.
  GradientSum(Context& ctx, const Tensor& target, bool write, DType dtype, size_t num_rounds)
      : ctx_(ctx),
        target_(target),
        write_(write),
        direct_(write && num_rounds == 1 && target.dtype() == dtype),
        dtype_(dtype) {
    if (write && num_rounds == 0) target.fill_zero();
  }

  // Where the kernel writes the rows of the next round.
  const Tensor& room(const std::vector<RowRange>& rows) {
    const bool all = covers_all(rows, target_.dim(0));
    if (direct_) {
      if (!all) target_.fill_zero();
      return target_;
    }
    if (!part_.defined()) part_ = ctx_.empty(target_.shape(), dtype_);
    rows_ = few(rows);
    if (rows_.size() < rows.size()) rows_of(part_, rows_[0]).fill_zero();
    return part_;
  }

  // Adds what it wrote.
  void add() {
    if (direct_) return;
    if (!sum_.defined()) {
      const DType sums = accumulator_dtype(dtype_);
      sum_ = target_.dtype() == sums ? target_ : ctx_.empty(target_.shape(), sums);
      if (write_ && covers_all(rows_, target_.dim(0))) return sum_.copy_from(part_);
      if (write_) sum_.fill_zero();
    }
    for (RowRange rows : rows_) accumulate(ctx_, rows_of(sum_, rows), rows_of(part_, rows));
  }

  void finish() const {
    if (sum_.defined() && sum_.dtype() != target_.dtype()) target_.copy_from(sum_);
  }

 private:
  Context& ctx_;
  const Tensor& target_;
  bool write_, direct_;
  DType dtype_;
  Tensor part_, sum_;
  std::vector<RowRange> rows_;
};

SoftmaxBlockOutput run_forward(Context& ctx, const CallKernel& kernel,
                               const CallPlanOptions& options, const SoftmaxBlockInput& input,
                               const BlockMask& mask, DType o_dtype) {
  const DType dtype = input.q_THD.dtype(), sums = accumulator_dtype(dtype);
  const int64_t T = input.q_THD.dim(0), H = input.q_THD.dim(1), V = input.v_SKV.dim(2);
  const std::shared_ptr<const CallPlan> plan = CallPlan::of(mask, options);
  CallForward op{.q_THD = input.q_THD,
                 .k_SKD = input.k_SKD,
                 .v_SKV = input.v_SKV,
                 .scale = input.scale,
                 .o_THV = ctx.empty({T, H, V}, dtype),
                 .lse_TH = ctx.empty({T, H}, sums)};
  SoftmaxBlockOutput merged{op.o_THV, op.lse_TH};
  if (plan->rounds.empty() || !covers_all(plan->rounds[0].queries, T)) {
    merged.o_THV.fill_zero();
    fill(ctx, merged.lse_TH, kNoKey);
  }
  for (size_t i = 0; i < plan->rounds.size(); ++i) {
    const CallRound& round = plan->rounds[i];
    const std::vector<RowRange> ranges = few(round.queries);
    if (i == 1) {
      // A single merge may round; more of them, or one into what is to be merged further, may not.
      if (plan->rounds.size() > 2) merged.o_THV = merged.o_THV.to(sums);
      merged.o_THV = merged.o_THV.to(o_dtype == sums ? sums : merged.o_THV.dtype());
      op.o_THV = ctx.empty({T, H, V}, dtype);
      op.lse_TH = ctx.empty({T, H}, sums);
    }
    if (i > 0 && ranges.size() < round.queries.size())
      fill(ctx, rows_of(op.lse_TH, ranges[0]), kNoKey);
    for (const AttentionCall& call : round.calls) kernel.forward(ctx, call, op);
    if (i == 0) continue;
    for (RowRange rows : ranges) {
      const Tensor o_THV = rows_of(merged.o_THV, rows);
      merge_partials_into(ctx, o_THV, o_THV, rows_of(merged.lse_TH, rows), rows_of(op.o_THV, rows),
                          rows_of(op.lse_TH, rows));
    }
  }
  merged.o_THV = merged.o_THV.to(o_dtype);
  return merged;
}

void run_backward(Context& ctx, const CallKernel& kernel, const CallPlanOptions& options,
                  const SoftmaxBlockInput& input, const BlockMask& mask,
                  const SoftmaxBlockBackward& gradients) {
  const DType dtype = input.q_THD.dtype();
  const std::shared_ptr<const CallPlan> plan = CallPlan::of(mask, options);
  const size_t num_rounds = plan->rounds.size();
  GradientSum dq(ctx, gradients.dq_THD, gradients.write_dq, dtype, num_rounds);
  GradientSum dk(ctx, gradients.dk_SKD, gradients.write_dkv, dtype, num_rounds);
  GradientSum dv(ctx, gradients.dv_SKV, gradients.write_dkv, dtype, num_rounds);
  for (const CallRound& round : plan->rounds) {
    const CallBackward op{.q_THD = input.q_THD,
                          .k_SKD = input.k_SKD,
                          .v_SKV = input.v_SKV,
                          .scale = input.scale,
                          .o_THV = gradients.delta_or_o,
                          .lse_TH = gradients.lse_TH,
                          .do_THV = gradients.do_THV,
                          .dq_THD = dq.room(round.queries),
                          .dk_SKD = dk.room(round.keys),
                          .dv_SKV = dv.room(round.keys)};
    for (const AttentionCall& call : round.calls) kernel.backward(ctx, call, op);
    for (GradientSum* sum : {&dq, &dk, &dv}) sum->add();
  }
  for (const GradientSum* sum : {&dq, &dk, &dv}) sum->finish();
}

// Heads that a kernel can compute together: each key/value head has as many query heads.
struct HeadRun {
  HeadRange query, kv;
};

std::vector<HeadRun> head_runs(std::span<const int64_t> kv_head) {
  std::vector<HeadRun> runs;
  const auto num_heads = static_cast<int64_t>(kv_head.size());
  for (int64_t begin = 0, end = 0; begin < num_heads; begin = end) {
    const int64_t kv = kv_head[static_cast<size_t>(begin)];
    while (end < num_heads && kv_head[static_cast<size_t>(end)] == kv) ++end;
    const int64_t count = end - begin;
    if (!runs.empty() && runs.back().kv.end() == kv &&
        runs.back().query.count == count * runs.back().kv.count) {
      runs.back().query.count += count;
      ++runs.back().kv.count;
    } else {
      runs.push_back({{begin, count}, {kv, 1}});
    }
  }
  return runs;
}

bool is_whole(const std::vector<HeadRun>& runs, const SoftmaxBlockInput& input) {
  return runs.size() == 1 && runs[0].kv == HeadRange{0, input.k_SKD.dim(1)};
}

SoftmaxBlockInput input_of(const HeadRun& run, const SoftmaxBlockInput& input) {
  return {.q_THD = heads_of(input.q_THD, run.query).contiguous(),
          .k_SKD = heads_of(input.k_SKD, run.kv).contiguous(),
          .v_SKV = heads_of(input.v_SKV, run.kv).contiguous(),
          .kv_head = grouped_kv_heads(run.query.count, run.kv.count),
          .scale = input.scale};
}

}  // namespace

CallPlanOptions SoftmaxCalls::plan_options(bool backward, const SoftmaxBlockInput& input) const {
  CallPlanOptions options =
      options_.value_or(CallPlanOptions::fastest(backward, input.q_THD.dim(2)));
  options.backward = backward;
  return options;
}

SoftmaxBlockOutput SoftmaxCalls::forward(Context& ctx, const SoftmaxBlockInput& input,
                                         const BlockMask& mask, DType o_dtype) const {
  const std::vector<HeadRun> runs = head_runs(input.kv_head);
  const CallPlanOptions options = plan_options(/*backward=*/false, input);
  if (is_whole(runs, input)) return run_forward(ctx, *kernel_, options, input, mask, o_dtype);
  const int64_t T = input.q_THD.dim(0), H = input.q_THD.dim(1), V = input.v_SKV.dim(2);
  const SoftmaxBlockOutput all = {ctx.empty({T, H, V}, o_dtype),
                                  ctx.empty({T, H}, accumulator_dtype(input.q_THD.dtype()))};
  for (const HeadRun& run : runs) {
    const SoftmaxBlockOutput part =
        run_forward(ctx, *kernel_, options, input_of(run, input), mask, o_dtype);
    heads_of(all.o_THV, run.query).copy_from(part.o_THV);
    heads_of(all.lse_TH, run.query).copy_from(part.lse_TH);
  }
  return all;
}

void SoftmaxCalls::backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                            const SoftmaxBlockBackward& gradients) const {
  const std::vector<HeadRun> runs = head_runs(input.kv_head);
  const CallPlanOptions options = plan_options(/*backward=*/true, input);
  if (is_whole(runs, input)) return run_backward(ctx, *kernel_, options, input, mask, gradients);
  // Key/value heads without query heads are in no run.
  if (gradients.write_dkv) {
    gradients.dk_SKD.fill_zero();
    gradients.dv_SKV.fill_zero();
  }
  for (const HeadRun& run : runs) {
    const SoftmaxBlockInput in = input_of(run, input);
    const SoftmaxBlockBackward part{
        .do_THV = heads_of(gradients.do_THV, run.query).contiguous(),
        .lse_TH = heads_of(gradients.lse_TH, run.query).contiguous(),
        .delta_or_o = heads_of(gradients.delta_or_o, run.query).contiguous(),
        .dq_THD = ctx.empty(in.q_THD.shape(), gradients.dq_THD.dtype()),
        .dk_SKD = ctx.empty(in.k_SKD.shape(), gradients.dk_SKD.dtype()),
        .dv_SKV = ctx.empty(in.v_SKV.shape(), gradients.dv_SKV.dtype()),
        .write_dq = true,
        .write_dkv = true};
    run_backward(ctx, *kernel_, options, in, mask, part);
    auto hand_over = [&](const Tensor& into, const Tensor& from, bool write) {
      if (write)
        into.copy_from(from);
      else
        accumulate(ctx, into, from);
    };
    hand_over(heads_of(gradients.dq_THD, run.query), part.dq_THD, gradients.write_dq);
    hand_over(heads_of(gradients.dk_SKD, run.kv), part.dk_SKD, gradients.write_dkv);
    hand_over(heads_of(gradients.dv_SKV, run.kv), part.dv_SKV, gradients.write_dkv);
  }
}

}  // namespace longship
