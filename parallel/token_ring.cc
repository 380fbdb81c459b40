// "token_ring": TokenRing (Wang et al. 2024, arXiv 2412.20501), with a backward of the same kind.
//
// Keys and values stay. Queries travel from rank r to rank r - 1, so that at step t rank r computes
// the queries of rank r + t over its own keys (all modulo P); partial outputs and their lse go
// straight back to the owner of the queries. The next queries and the last partial output are on
// their way while the present block is computed. The owner merges in the accumulator dtype in the
// order of the steps, whatever arrives first; o is rounded once, at the end. In the backward q, do,
// lse and delta travel the same way, partial dq go straight back and are added in the order of the
// steps, and dk and dv stay where they are.
//
// Queries travel no further than they see keys, and only the rows that do: at step t and beyond,
// u(p, t) rows of rank p, the smallest range that covers all queries that see keys of the ranks
// p - t, .., p - n, where n <= P - 1 is the last step at which any query sees a key. At step t the
// rows w(p, t) = Visibility::between(p, p - t).queries.count are computed and returned. Of one
// document both are nothing for t > p on the contiguous layout, and the half of the rows for t > p
// on the zigzag layout. With e bytes an element, g of the accumulator (4; 8) and f of what the
// kernel gives (g; e where it rounds to that anyway), rank r sends
//   "token_ring.fwd"  sum over t = 1 .. n of  u(r + t - 1, t) H D e  +  w(r + t, t) H (V f + g)
//   "token_ring.bwd"  sum over t = 1 .. n of  u(r + t - 1, t) H ((D + V) e + 2 g)
//                                           + w(r + t, t) H D f
// (where the kernel makes delta itself, o travels in its place: V e instead of one g)
//
// Memory beside inputs and output, for s the largest shard: in the forward queries of two steps,
// 2 s H D e, and four times an output with its lse, s H (V + 1) g + 3 s H (V f + g) (merged,
// computed, leaving and arriving); in the backward delta, two times q, do, lse and delta,
// 2 s H ((D + V) e + 2 g), four times dq, s H D (g + 3 f), and dk and dv.
#include <algorithm>
#include <functional>

#include "parallel/resident_schedule.h"
#include "parallel/tensor_rows.h"
#include "parallel/visible_rows.h"
#include "runtime/ops/merge_partials.h"

namespace longship {
namespace {

// The walk of queries round the ranks, the same for outputs and for gradients.
class TokenRingWalk {
 public:
  // What these queries get from the local keys: this rank's own first, to which others' parts are
  // joined, and then parts for others.
  using Compute =
      std::function<TensorRows(const TensorRows& queries, const BlockMask& mask, bool is_own)>;
  // Joins what another rank computed for some of the own queries into what there is for them.
  using Join = std::function<void(const TensorRows& home, const TensorRows& arrived)>;

  // `sp` and `plan` must outlive the walk.
  TokenRingWalk(const Group& sp, const SequencePlan& plan, const MaskRule& rule);

  // Steps after the first at which some rank computes something: n above.
  int num_steps() const { return num_steps_; }

  // Sends `own`, what is known of the local queries, round the ranks and computes for others, parts
  // in `part_dtypes`. Returns the joined results for the local queries.
  TensorRows run(Context& ctx, std::string_view label, const TensorRows& own,
                 std::span<const DType> part_dtypes, const Compute& compute,
                 const Join& join) const;

 private:
  struct Parcel {
    RowRange rows;  // of the owner of the queries
    TensorRows tensors;
  };

  int peer(int distance) const;
  RowRange travelling(int owner, int step) const;
  RowRange computed(int owner, int key_rank) const {
    return visibility_->between(owner, key_rank).queries;
  }
  BlockMask mask(int owner) const;
  Parcel pass_on(const Context& ctx, int step, const Parcel& present,
                 std::vector<P2P>& batch) const;
  Parcel give_back(const Context& ctx, int step, const Parcel& leaving, const TensorRows& home,
                   std::span<const DType> part_dtypes, std::vector<P2P>& batch) const;

  const Group& sp_;
  const SequencePlan& plan_;
  MaskRule rule_;
  std::shared_ptr<const Visibility> visibility_;
  int num_steps_ = 0;
};

TokenRingWalk::TokenRingWalk(const Group& sp, const SequencePlan& plan, const MaskRule& rule)
    : sp_(sp), plan_(plan), rule_(rule), visibility_(visibility_of(plan, rule)) {
  const int size = plan.num_ranks();
  for (int owner = 0; owner < size; ++owner)
    for (int key_rank = 0; key_rank < size; ++key_rank)
      if (computed(owner, key_rank).count > 0)
        num_steps_ = std::max(num_steps_, (owner - key_rank + size) % size);
}

// The rank `distance` places from this one.
int TokenRingWalk::peer(int distance) const {
  const int size = plan_.num_ranks();
  return ((plan_.rank() + distance) % size + size) % size;
}

// Rows of a rank's queries that are needed at a step or later.
RowRange TokenRingWalk::travelling(int owner, int step) const {
  const int size = plan_.num_ranks();
  RowRange rows;
  for (int later = step; later <= num_steps_; ++later)
    rows = cover(rows, computed(owner, (owner - later + size) % size));
  return rows;
}

// The computed rows of a rank's queries over the local keys.
BlockMask TokenRingWalk::mask(int owner) const {
  return document_mask(segments_in(plan_.segments(owner), computed(owner, plan_.rank())),
                       plan_.local_segments(), rule_);
}

// Adds to `batch` that `present`, the queries of this step, moves on and the next ones arrive.
// Returns the arriving ones.
TokenRingWalk::Parcel TokenRingWalk::pass_on(const Context& ctx, int step, const Parcel& present,
                                             std::vector<P2P>& batch) const {
  if (step == num_steps_) return {};
  const RowRange moving = travelling(peer(step), step + 1);
  if (moving.count > 0)
    add_send(batch, peer(-1),
             slice(present.tensors, {moving.begin - present.rows.begin, moving.count}));
  const RowRange rows = travelling(peer(step + 1), step + 1);
  Parcel next = {rows, empty_like(ctx, present.tensors, rows.count)};
  if (rows.count > 0) add_receive(batch, peer(+1), next.tensors);
  return next;
}

// Adds to `batch` that `leaving`, computed at a step, goes to the owner of its queries, and what
// was computed at that step for the own queries arrives. Returns the arriving parcel.
TokenRingWalk::Parcel TokenRingWalk::give_back(const Context& ctx, int step, const Parcel& leaving,
                                               const TensorRows& home,
                                               std::span<const DType> part_dtypes,
                                               std::vector<P2P>& batch) const {
  if (leaving.rows.count > 0) add_send(batch, peer(step), leaving.tensors);
  const RowRange rows = computed(plan_.rank(), peer(-step));
  if (rows.count == 0) return {};
  Parcel arriving = {rows, empty_like(ctx, home, rows.count, part_dtypes)};
  add_receive(batch, peer(-step), arriving.tensors);
  return arriving;
}

TensorRows TokenRingWalk::run(Context& ctx, std::string_view label, const TensorRows& own,
                              std::span<const DType> part_dtypes, const Compute& compute,
                              const Join& join) const {
  Parcel present = {{0, plan_.num_local_tokens()}, own};
  Parcel leaving;
  TensorRows home;
  // One step more than there are blocks, for the last ones to come home.
  for (int step = 0; step <= num_steps_ + 1; ++step) {
    std::vector<P2P> batch;
    Parcel next, arriving, part;
    if (step <= num_steps_) next = pass_on(ctx, step, present, batch);
    if (step > 1) arriving = give_back(ctx, step - 1, leaving, home, part_dtypes, batch);
    Work work = sp_.exchange(label, std::move(batch));
    if (step <= num_steps_) part.rows = computed(peer(step), plan_.rank());
    if (step == 0 || part.rows.count > 0)
      part.tensors =
          compute(slice(present.tensors, {part.rows.begin - present.rows.begin, part.rows.count}),
                  mask(peer(step)), step == 0);
    work.wait();
    if (arriving.rows.count > 0) join(slice(home, arriving.rows), arriving.tensors);
    if (step == 0)
      home = std::move(part.tensors);
    else
      leaving = std::move(part);
    present = std::move(next);
  }
  return home;
}

class TokenRingPasses final : public ResidentPasses {
 public:
  TokenRingPasses(Group sp, const SoftmaxBlock& kernel)
      : ResidentPasses("token_ring", std::move(sp), kernel) {}

  SoftmaxBlockOutput forward(Context& ctx, const ResidentAttention& call) const override {
    const DType sums = call.shape.accumulator, part_dtypes[] = {output_dtype(call), sums};
    auto compute = [&](const TensorRows& queries, const BlockMask& mask,
                       bool is_own) -> TensorRows {
      SoftmaxBlockInput block = call.input;
      block.q_THD = queries[0];
      const SoftmaxBlockOutput part =
          kernel().forward(ctx, block, mask, is_own ? sums : part_dtypes[0]);
      return {part.o_THV, part.lse_TH};
    };
    const TensorRows merged =
        TokenRingWalk(sp(), call.plan, call.rule)
            .run(ctx, forward_label(), {call.input.q_THD}, part_dtypes, compute,
                 [&](const TensorRows& home, const TensorRows& arrived) {
                   merge_partials(ctx, home[0], home[1], arrived[0], arrived[1]);
                 });
    return {merged[0], merged[1]};
  }

  ResidentGradients backward(Context& ctx, const ResidentAttention& call,
                             const SoftmaxBlockOutput& output,
                             const Tensor& do_THV) const override {
    const DType sums = call.shape.accumulator, part_dtypes[] = {output_dtype(call)};
    const SoftmaxBlockInput& local = call.input;
    const Tensor dk_TKD = ctx.empty(local.k_SKD.shape(), sums);
    const Tensor dv_TKV = ctx.empty(local.v_SKV.shape(), sums);
    auto compute = [&](const TensorRows& queries, const BlockMask& mask,
                       bool is_own) -> TensorRows {
      SoftmaxBlockInput block = local;
      block.q_THD = queries[0];
      const Tensor dq_THD = ctx.empty(block.q_THD.shape(), is_own ? sums : part_dtypes[0]);
      kernel().backward(ctx, block, mask,
                        {.do_THV = queries[1],
                         .lse_TH = queries[2],
                         .delta_or_o = queries[3],
                         .dq_THD = dq_THD,
                         .dk_SKD = dk_TKD,
                         .dv_SKV = dv_TKV,
                         .write_dq = true,
                         .write_dkv = is_own});
      return {dq_THD};
    };
    const TensorRows dq =
        TokenRingWalk(sp(), call.plan, call.rule)
            .run(ctx, backward_label(),
                 {local.q_THD, do_THV, output.lse_TH,
                  row_term_of(ctx, kernel(), output.o_THV, do_THV)},
                 part_dtypes, compute, [&](const TensorRows& home, const TensorRows& arrived) {
                   accumulate(ctx, home, arrived);
                 });
    return {dq[0], dk_TKD, dv_TKV};
  }
};

}  // namespace

std::unique_ptr<SoftmaxSchedule> make_token_ring(Group sp, const SoftmaxBlock& kernel) {
  return make_resident_schedule(std::make_shared<TokenRingPasses>(std::move(sp), kernel));
}

}  // namespace longship
