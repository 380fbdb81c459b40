#include "parallel/lightseq.h"

#include "parallel/resident_schedule.h"
#include "parallel/tensor_rows.h"
#include "runtime/ops/merge_partials.h"

namespace longship {
namespace {

// The arithmetic of one pass. Rows of a task's queries and keys count from its ranges.
class LightseqPass {
 public:
  virtual ~LightseqPass() = default;
  // Adds to the results of this rank what the task means for it, and returns what it means for the
  // other rank of the task.
  virtual TensorRows compute(const LightseqTask& task, const BlockMask& mask,
                             const TensorRows& queries, const TensorRows& keys) = 0;
  // The rows of this rank that the results of a task of another rank join; empty if there are none.
  virtual TensorRows home(const LightseqTask& task) const = 0;
  virtual void join(const TensorRows& home, const TensorRows& arrived) const = 0;
  // Of results for other ranks.
  virtual std::span<const DType> part_dtypes() const = 0;
};

class ForwardPass final : public LightseqPass {
 public:
  ForwardPass(Context& ctx, const SoftmaxBlock& kernel, const ResidentAttention& call)
      : ctx_(ctx),
        kernel_(kernel),
        call_(call),
        part_dtypes_{kernel.output_dtype(call.shape.dtype), call.shape.accumulator} {}

  TensorRows compute(const LightseqTask& task, const BlockMask& mask, const TensorRows& queries,
                     const TensorRows& keys) override {
    SoftmaxBlockInput block = call_.input;
    block.q_THD = queries[0];
    block.k_SKD = keys[0];
    block.v_SKV = keys[1];
    // The first block is what the others are merged into.
    const bool is_first = task.key_rank == task.query_rank;
    const SoftmaxBlockOutput output =
        kernel_.forward(ctx_, block, mask, is_first ? call_.shape.accumulator : part_dtypes_[0]);
    TensorRows part = {output.o_THV, output.lse_TH};
    if (task.query_rank != call_.plan.rank()) return part;
    if (is_first)
      merged_ = std::move(part);
    else
      join(slice(merged_, task.queries), part);
    return {};
  }
  TensorRows home(const LightseqTask& task) const override {
    return task.query_rank == call_.plan.rank() ? slice(merged_, task.queries) : TensorRows{};
  }
  void join(const TensorRows& home, const TensorRows& arrived) const override {
    merge_partials(ctx_, home[0], home[1], arrived[0], arrived[1]);
  }
  std::span<const DType> part_dtypes() const override { return part_dtypes_; }

  SoftmaxBlockOutput output() const { return {merged_[0], merged_[1]}; }

 private:
  Context& ctx_;
  const SoftmaxBlock& kernel_;
  const ResidentAttention& call_;
  const DType part_dtypes_[2];
  TensorRows merged_;  // o, lse
};

class BackwardPass final : public LightseqPass {
 public:
  BackwardPass(Context& ctx, const SoftmaxBlock& kernel, const ResidentAttention& call)
      : ctx_(ctx),
        kernel_(kernel),
        call_(call),
        part_dtypes_{kernel.output_dtype(call.shape.dtype), kernel.output_dtype(call.shape.dtype)} {
    const DType sums[] = {call.shape.accumulator, call.shape.accumulator};
    dq_ = empty_like(ctx, {call.input.q_THD}, call.shape.num_tokens, sums);
    dkv_ = empty_like(ctx, {call.input.k_SKD, call.input.v_SKV}, call.shape.num_tokens, sums);
  }

  TensorRows compute(const LightseqTask& task, const BlockMask& mask, const TensorRows& queries,
                     const TensorRows& keys) override {
    const bool own_queries = task.query_rank == call_.plan.rank();
    const bool own_keys = task.key_rank == call_.plan.rank();
    const bool is_first = own_queries && own_keys;  // about all rows
    const TensorRows dq = own_queries
                              ? slice(dq_, task.queries)
                              : empty_like(ctx_, {queries[0]}, task.queries.count, part_dtypes_);
    const TensorRows dkv =
        own_keys ? slice(dkv_, task.keys) : empty_like(ctx_, keys, task.keys.count, part_dtypes_);
    SoftmaxBlockInput block = call_.input;
    block.q_THD = queries[0];
    block.k_SKD = keys[0];
    block.v_SKV = keys[1];
    kernel_.backward(ctx_, block, mask,
                     {.do_THV = queries[1],
                      .lse_TH = queries[2],
                      .delta_or_o = queries[3],
                      .dq_THD = dq[0],
                      .dk_SKD = dkv[0],
                      .dv_SKV = dkv[1],
                      .write_dq = is_first || !own_queries,
                      .write_dkv = is_first || !own_keys});
    if (!own_queries) return dq;
    return own_keys ? TensorRows{} : dkv;
  }
  TensorRows home(const LightseqTask& task) const override {
    return task.query_rank == call_.plan.rank() ? slice(dq_, task.queries) : slice(dkv_, task.keys);
  }
  void join(const TensorRows& home, const TensorRows& arrived) const override {
    accumulate(ctx_, home, arrived);
  }
  std::span<const DType> part_dtypes() const override { return part_dtypes_; }

  ResidentGradients gradients() const { return {dq_[0], dkv_[0], dkv_[1]}; }

 private:
  Context& ctx_;
  const SoftmaxBlock& kernel_;
  const ResidentAttention& call_;
  const DType part_dtypes_[2];
  TensorRows dq_, dkv_;
};

// The way of queries, keys and results between the ranks, the same for both passes.
class LightseqWalk {
 public:
  // `queries` and `keys` are what helpers and owners need to know of this rank's rows.
  LightseqWalk(const Group& sp, const ResidentAttention& call, TensorRows queries, TensorRows keys);

  void run(Context& ctx, std::string_view label, LightseqPass& pass) const;

 private:
  int size() const { return plan_.num_ranks(); }
  int rank() const { return plan_.rank(); }
  const LightseqTask& task(int step, int rank) const {
    return tasks_[static_cast<size_t>(step * size() + rank)];
  }
  // The results of a task of another rank, on their way here.
  struct Arriving {
    TensorRows home, rows;
  };

  TensorRows fetch(const Context& ctx, int step, std::vector<P2P>& batch) const;
  TensorRows compute(int step, const TensorRows& fetched, LightseqPass& pass) const;
  std::vector<Arriving> give_back(const Context& ctx, int step, const TensorRows& leaving,
                                  const LightseqPass& pass, std::vector<P2P>& batch) const;

  const Group& sp_;
  const SequencePlan& plan_;
  MaskRule rule_;
  TensorRows queries_, keys_;
  std::vector<LightseqTask> tasks_;  // by step and rank
  int last_step_ = 0;                // at which any rank computes something
};

LightseqWalk::LightseqWalk(const Group& sp, const ResidentAttention& call, TensorRows queries,
                           TensorRows keys)
    : sp_(sp),
      plan_(call.plan),
      rule_(call.rule),
      queries_(std::move(queries)),
      keys_(std::move(keys)) {
  const std::shared_ptr<const Visibility> visibility = visibility_of(plan_, rule_);
  for (int step = 0; step < lightseq_steps(size()); ++step)
    for (int peer = 0; peer < size(); ++peer) {
      tasks_.push_back(lightseq_task(plan_, *visibility, step, peer));
      if (!tasks_.back().empty()) last_step_ = step;
    }
}

// Adds to `batch` that the rows which others need of this rank at a step leave, and those which
// this rank needs arrive. Returns the arriving ones.
TensorRows LightseqWalk::fetch(const Context& ctx, int step, std::vector<P2P>& batch) const {
  TensorRows fetched;
  for (int peer = 0; peer < size(); ++peer) {
    const LightseqTask& needed = task(step, peer);
    if (needed.empty()) continue;
    const bool sends_keys = peer == needed.query_rank;
    const RowRange rows = sends_keys ? needed.keys : needed.queries;
    const int sender = sends_keys ? needed.key_rank : needed.query_rank;
    const TensorRows& known = sends_keys ? keys_ : queries_;
    if (peer == rank()) {
      fetched = empty_like(ctx, known, rows.count);
      add_receive(batch, sender, fetched);
    } else if (sender == rank()) {
      add_send(batch, peer, slice(known, rows));
    }
  }
  return fetched;
}

TensorRows LightseqWalk::compute(int step, const TensorRows& fetched, LightseqPass& pass) const {
  const LightseqTask& mine = task(step, rank());
  if (step > 0 && mine.empty()) return {};
  const BlockMask mask =
      document_mask(segments_in(plan_.segments(mine.query_rank), mine.queries),
                    segments_in(plan_.segments(mine.key_rank), mine.keys), rule_);
  return pass.compute(mine, mask,
                      mine.query_rank == rank() ? slice(queries_, mine.queries) : fetched,
                      mine.key_rank == rank() ? slice(keys_, mine.keys) : fetched);
}

// Adds to `batch` that `leaving`, computed at a step, goes to the other rank of its task, and what
// others computed for this rank arrives. Returns the arriving results in ascending rank order.
std::vector<LightseqWalk::Arriving> LightseqWalk::give_back(const Context& ctx, int step,
                                                            const TensorRows& leaving,
                                                            const LightseqPass& pass,
                                                            std::vector<P2P>& batch) const {
  std::vector<Arriving> arriving;
  for (int peer = 0; peer < size(); ++peer) {
    const LightseqTask& done = task(step, peer);
    if (done.empty()) continue;
    const int other = peer == done.query_rank ? done.key_rank : done.query_rank;
    if (peer == rank()) {
      add_send(batch, other, leaving);
    } else if (other == rank()) {
      Arriving results = {pass.home(done), {}};
      if (results.home.empty()) continue;
      results.rows = empty_like(ctx, results.home, results.home[0].dim(0), pass.part_dtypes());
      add_receive(batch, peer, results.rows);
      arriving.push_back(std::move(results));
    }
  }
  return arriving;
}

void LightseqWalk::run(Context& ctx, std::string_view label, LightseqPass& pass) const {
  TensorRows fetched, leaving;
  // One step more than there are blocks, for the last results to come home.
  for (int step = 0; step <= last_step_ + 1; ++step) {
    std::vector<P2P> batch;
    TensorRows next;
    std::vector<Arriving> arriving;
    if (step < last_step_) next = fetch(ctx, step + 1, batch);
    if (step > 1) arriving = give_back(ctx, step - 1, leaving, pass, batch);
    Work work = sp_.exchange(label, std::move(batch));
    leaving = step <= last_step_ ? compute(step, fetched, pass) : TensorRows{};
    work.wait();
    for (const Arriving& results : arriving) pass.join(results.home, results.rows);
    fetched = std::move(next);
  }
}

class LightseqPasses final : public ResidentPasses {
 public:
  LightseqPasses(Group sp, const SoftmaxBlock& kernel)
      : ResidentPasses("lightseq", std::move(sp), kernel) {}

  SoftmaxBlockOutput forward(Context& ctx, const ResidentAttention& call) const override {
    if (call.plan.layout() != Layout::kContiguous)
      throw Error(ErrorCode::kConfig,
                  {.what = "strategy `lightseq`",
                   .expected = "the layout `contiguous`",
                   .found = fmt::format("`{}`", layout_name(call.plan.layout())),
                   .next = "choose the layout `contiguous`, or `ring`, which zigzag balances"});
    if (!call.rule.causal)
      throw Error(ErrorCode::kConfig,
                  {.what = "strategy `lightseq`",
                   .expected = "a causal layer",
                   .found = "attention in both directions, which keeps every rank busy anyway",
                   .next = "choose ring, token_ring, gather_kv or ulysses"});
    ForwardPass pass(ctx, kernel(), call);
    const SoftmaxBlockInput& local = call.input;
    LightseqWalk(sp(), call, {local.q_THD}, {local.k_SKD, local.v_SKV})
        .run(ctx, forward_label(), pass);
    return pass.output();
  }

  ResidentGradients backward(Context& ctx, const ResidentAttention& call,
                             const SoftmaxBlockOutput& output,
                             const Tensor& do_THV) const override {
    BackwardPass pass(ctx, kernel(), call);
    const SoftmaxBlockInput& local = call.input;
    LightseqWalk(
        sp(), call,
        {local.q_THD, do_THV, output.lse_TH, row_term_of(ctx, kernel(), output.o_THV, do_THV)},
        {local.k_SKD, local.v_SKV})
        .run(ctx, backward_label(), pass);
    return pass.gradients();
  }
};

}  // namespace

int lightseq_steps(int num_ranks) {
  return num_ranks / 2 + 1;
}

LightseqTask lightseq_task(const SequencePlan& plan, const Visibility& visibility, int step,
                           int rank) {
  if (step == 0) {
    const RowRange all = {0, plan.num_tokens(rank)};
    return {rank, rank, all, all};
  }
  const int size = plan.num_ranks();
  const bool helps = rank < step;
  const int query_rank = helps ? rank + size - step : rank;
  const int key_rank = helps ? rank : rank - step;
  const VisibleRows& pair = visibility.between(query_rank, key_rank);
  LightseqTask task = {query_rank, key_rank, pair.queries, pair.keys};
  if (2 * step == size) {
    const int64_t half = pair.queries.count / 2;
    task.queries = helps ? RowRange{pair.queries.begin, half}
                         : RowRange{pair.queries.begin + half, pair.queries.count - half};
  }
  return task;
}

std::unique_ptr<SoftmaxSchedule> make_lightseq(Group sp, const SoftmaxBlock& kernel) {
  return make_resident_schedule(std::make_shared<LightseqPasses>(std::move(sp), kernel));
}

}  // namespace longship
