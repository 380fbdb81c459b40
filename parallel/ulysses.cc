#include "parallel/ulysses.h"

#include <numeric>

#include "parallel/attention_shape.h"
#include "parallel/softmax_schedule.h"
#include "runtime/ops/accumulate.h"
#include "runtime/ops/sink_logit.h"
#include "runtime/ops/softmax_delta.h"

namespace longship {
namespace {

// Names: T tokens of this rank, S tokens of all ranks, H (K) all query (KV) heads, N the heads of
// this rank, X the size of one head.

// A tensor on its way.
class Transfer {
 public:
  Transfer(Tensor received, Work work) : received_(std::move(received)), work_(std::move(work)) {}

  // Waits for the tensor and hands it over; what was sent is freed.
  Tensor arrive() {
    work_.wait();
    work_ = {};
    return std::move(received_);
  }

 private:
  Tensor received_;
  Work work_;
};

// Moves one kind of head (query or KV) between the two ways of splitting.
class HeadExchange {
 public:
  HeadExchange(const Group& sp, const SequencePlan& plan, std::vector<HeadRange> ranges)
      : sp_(sp), plan_(plan), ranges_(std::move(ranges)) {}

  // x_THX -> x_SNX, rows in (rank, slot) order.
  Transfer to_heads(const Context& ctx, std::string_view label, const Tensor& x_THX) const {
    const int64_t num_tokens = x_THX.dim(0), size = x_THX.dim(2);
    const Tensor packed = ctx.empty({num_tokens * num_dealt() * size}, x_THX.dtype());
    for_each_block(num_tokens, size, [&](HeadRange range, int64_t begin, int64_t length) {
      packed.slice(0, begin, length)
          .reshape({num_tokens, range.count * size})
          .copy_from(columns(x_THX, range));
    });
    const Tensor x_SNX = ctx.empty({plan_.num_tokens(), mine().count, size}, x_THX.dtype());
    return {x_SNX, sp_.all_to_all(label, packed, elements_by_head(num_tokens * size),
                                  x_SNX.reshape({-1}), elements_by_token(size))};
  }

  // The way back. Heads of several ranks arrive several times; collect() or sum() puts the blocks
  // in place.
  Transfer to_tokens(const Context& ctx, std::string_view label, const Tensor& x_SNX) const {
    const int64_t num_tokens = plan_.num_local_tokens(), size = x_SNX.dim(2);
    const Tensor packed = ctx.empty({num_tokens * num_dealt() * size}, x_SNX.dtype());
    return {packed, sp_.all_to_all(label, x_SNX.reshape({-1}), elements_by_token(size), packed,
                                   elements_by_head(num_tokens * size))};
  }

  // x_THX from the blocks of to_tokens(), when every head was on one rank.
  Tensor collect(const Context& ctx, const Tensor& packed, int64_t num_heads, int64_t size) const {
    const int64_t num_tokens = plan_.num_local_tokens();
    const Tensor x_THX = ctx.empty({num_tokens, num_heads, size}, packed.dtype());
    for_each_block(num_tokens, size, [&](HeadRange range, int64_t begin, int64_t length) {
      columns(x_THX, range)
          .copy_from(packed.slice(0, begin, length).reshape({num_tokens, range.count * size}));
    });
    return x_THX;
  }

  // The same, adding in ascending rank order what several ranks return for one head.
  Tensor sum(const Context& ctx, const Tensor& packed, int64_t num_heads, int64_t size) const {
    const int64_t num_tokens = plan_.num_local_tokens();
    const Tensor x_THX = ctx.zeros({num_tokens, num_heads, size}, packed.dtype());
    for_each_block(num_tokens, size, [&](HeadRange range, int64_t begin, int64_t length) {
      accumulate(ctx, columns(x_THX, range),
                 packed.slice(0, begin, length).reshape({num_tokens, range.count * size}));
    });
    return x_THX;
  }

 private:
  const HeadRange& mine() const { return ranges_[static_cast<size_t>(plan_.rank())]; }

  int64_t num_dealt() const {
    return std::accumulate(ranges_.begin(), ranges_.end(), int64_t{0},
                           [](int64_t sum, const HeadRange& range) { return sum + range.count; });
  }

  // [T, heads of the range * X], a view.
  static Tensor columns(const Tensor& x_THX, HeadRange range) {
    const int64_t size = x_THX.dim(2);
    return x_THX.reshape({x_THX.dim(0), x_THX.dim(1) * size})
        .slice(1, range.begin * size, range.count * size);
  }

  // Calls f(heads of rank p, begin, length) for the place of rank p's block among local tokens.
  template <class F>
  void for_each_block(int64_t num_tokens, int64_t size, F&& f) const {
    int64_t begin = 0;
    for (const HeadRange& range : ranges_) {
      const int64_t length = num_tokens * range.count * size;
      if (length > 0) f(range, begin, length);
      begin += length;
    }
  }

  std::vector<int64_t> elements_by_head(int64_t elements_per_head) const {
    std::vector<int64_t> counts;
    for (const HeadRange& range : ranges_) counts.push_back(range.count * elements_per_head);
    return counts;
  }

  std::vector<int64_t> elements_by_token(int64_t size) const {
    std::vector<int64_t> counts = plan_.tokens_per_rank();
    for (int64_t& count : counts) count *= mine().count * size;
    return counts;
  }

  const Group& sp_;
  const SequencePlan& plan_;
  std::vector<HeadRange> ranges_;
};

// Who computes which heads, and how tensors get there and back.
struct Route {
  HeadShare mine;
  bool shares_kv = false;  // some KV head is used by several ranks
  HeadExchange query;
  HeadExchange kv;

  static Route of(const Group& sp, const SequencePlan& plan, const AttentionShape& shape) {
    const auto shares = deal_heads(shape.num_heads, shape.num_kv_heads, plan.num_ranks());
    std::vector<HeadRange> query, kv;
    int64_t num_kv_dealt = 0;
    for (const HeadShare& share : shares) {
      query.push_back(share.query);
      kv.push_back(share.kv);
      num_kv_dealt += share.kv.count;
    }
    return {.mine = shares[static_cast<size_t>(plan.rank())],
            .shares_kv = num_kv_dealt > shape.num_kv_heads,
            .query = HeadExchange(sp, plan, std::move(query)),
            .kv = HeadExchange(sp, plan, std::move(kv))};
  }
};

struct UlyssesNode final : Node {
  // All tokens in (rank, slot) order, the heads of this rank.
  struct Saved {
    SoftmaxBlockInput input;
    SoftmaxBlockOutput output;
    Tensor sink_logit_N;  // undefined = none
    BlockMask mask;
    AttentionShape shape;
    SequencePlan plan;
  } saved;
  Group sp;
  const SoftmaxBlock* kernel;

  UlyssesNode(Saved kept, const Group& group, const SoftmaxBlock& block)
      : saved(std::move(kept)), sp(group), kernel(&block) {}

  const char* name() const override { return "ulysses"; }

  void backward(Context& ctx) override {
    constexpr std::string_view kLabel = "ulysses.bwd";
    const AttentionShape& shape = saved.shape;
    const SoftmaxBlockInput& in = saved.input;
    const Route route = Route::of(sp, saved.plan, shape);
    Transfer do_transfer = route.query.to_heads(ctx, kLabel, grad_output(ctx));
    SoftmaxBlockBackward gradients{.do_THV = do_transfer.arrive(),
                                   .lse_TH = saved.output.lse_TH,
                                   .delta_TH = {},
                                   .dq_THD = ctx.zeros(in.q_THD.shape(), shape.accumulator),
                                   .dk_SKD = ctx.zeros(in.k_SKD.shape(), shape.accumulator),
                                   .dv_SKV = ctx.zeros(in.v_SKV.shape(), shape.accumulator)};
    if (route.mine.query.count > 0) {
      gradients.delta_TH = softmax_delta(ctx, saved.output.o_THV, gradients.do_THV);
      kernel->backward(ctx, in, saved.mask, gradients);
    }
    if (input(3)) input(3)->add(ctx, sink_gradient(ctx, route.mine.query, gradients.delta_TH));
    const DType kv_dtype = route.shares_kv ? shape.accumulator : shape.dtype;
    Transfer dk = route.kv.to_tokens(ctx, kLabel, gradients.dk_SKD.to(kv_dtype));
    Transfer dv = route.kv.to_tokens(ctx, kLabel, gradients.dv_SKV.to(kv_dtype));
    Transfer dq = route.query.to_tokens(ctx, kLabel, gradients.dq_THD.to(shape.dtype));
    gradients = {};
    const Tensor dk_blocks = dk.arrive(), dv_blocks = dv.arrive(), dq_blocks = dq.arrive();
    auto join_kv = [&](const Tensor& blocks, int64_t size) {
      return route.shares_kv ? route.kv.sum(ctx, blocks, shape.num_kv_heads, size)
                             : route.kv.collect(ctx, blocks, shape.num_kv_heads, size);
    };
    if (input(0))
      input(0)->add(ctx, route.query.collect(ctx, dq_blocks, shape.num_heads, shape.head_size));
    if (input(1)) input(1)->add(ctx, join_kv(dk_blocks, shape.head_size));
    if (input(2)) input(2)->add(ctx, join_kv(dv_blocks, shape.value_size));
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("q_SND", saved.input.q_THD);
    visit("k_SND", saved.input.k_SKD);
    visit("v_SNV", saved.input.v_SKV);
    visit("o_SNV", saved.output.o_THV);
    visit("lse_SN", saved.output.lse_TH);
    if (saved.sink_logit_N.defined()) visit("sink_logit_N", saved.sink_logit_N);
  }

 private:
  // Of all heads: those of other ranks are zero here.
  Tensor sink_gradient(const Context& ctx, HeadRange mine, const Tensor& delta_SN) const {
    const Tensor gradient_H = ctx.zeros({saved.shape.num_heads}, saved.shape.accumulator);
    if (mine.count > 0)
      gradient_H.slice(0, mine.begin, mine.count)
          .copy_from(sink_logit_gradient(ctx, saved.sink_logit_N, saved.output.lse_TH, delta_SN));
    return gradient_H;
  }
};

class Ulysses final : public SoftmaxSchedule {
 public:
  Ulysses(Group sp, const SoftmaxBlock& kernel) : sp_(std::move(sp)), kernel_(kernel) {}

  Variable attend(Context& ctx, const Variable& q_THD, const Variable& k_TKD, const Variable& v_TKV,
                  const SequencePlan& plan, const AttentionOptions& options) const override {
    constexpr std::string_view kLabel = "ulysses.fwd";
    check_plan_matches(plan, sp_);
    const auto shape = AttentionShape::of(q_THD.value(), k_TKD.value(), v_TKV.value(), plan);
    const Route route = Route::of(sp_, plan, shape);
    Transfer k = route.kv.to_heads(ctx, kLabel, k_TKD.value().contiguous());
    Transfer v = route.kv.to_heads(ctx, kLabel, v_TKV.value().contiguous());
    Transfer q = route.query.to_heads(ctx, kLabel, q_THD.value().contiguous());

    const std::vector<Segment> segments = plan.gathered_segments();
    BlockMask mask = document_mask(segments, segments, options.mask_rule());
    const std::vector<int64_t> kv_head = grouped_kv_heads(shape.num_heads, shape.num_kv_heads);
    std::vector<int64_t> my_kv_head;
    for (int64_t h = route.mine.query.begin; h < route.mine.query.end(); ++h)
      my_kv_head.push_back(kv_head[static_cast<size_t>(h)] - route.mine.kv.begin);

    SoftmaxBlockInput input{.q_THD = q.arrive(),
                            .k_SKD = k.arrive(),
                            .v_SKV = v.arrive(),
                            .kv_head = std::move(my_kv_head),
                            .scale = options.scale};
    SoftmaxBlockOutput output;
    if (route.mine.query.count > 0)
      output = kernel_.forward(ctx, input, mask);
    else
      output = {.o_THV = ctx.empty({plan.num_tokens(), 0, shape.value_size}, shape.accumulator),
                .lse_TH = ctx.empty({plan.num_tokens(), 0}, shape.accumulator)};
    Tensor sink_logit_N = options.sink_logit_H.value();
    if (sink_logit_N.defined()) {
      LONGSHIP_CHECK(sink_logit_N.shape() == Shape{shape.num_heads}, "sink logits {} of {} heads",
                     shape_string(sink_logit_N.shape()), shape.num_heads);
      sink_logit_N = sink_logit_N.slice(0, route.mine.query.begin, route.mine.query.count);
      add_sink_logit(ctx, sink_logit_N, output.o_THV, output.lse_TH);
    }
    output.o_THV = output.o_THV.to(shape.dtype);
    Transfer o = route.query.to_tokens(ctx, kLabel, output.o_THV);

    std::unique_ptr<UlyssesNode> node;
    if (is_recording(ctx, {&q_THD, &k_TKD, &v_TKV, &options.sink_logit_H}))
      node = std::make_unique<UlyssesNode>(
          UlyssesNode::Saved{std::move(input), std::move(output), std::move(sink_logit_N),
                             std::move(mask), shape, plan},
          sp_, kernel_);
    Tensor o_THV = route.query.collect(ctx, o.arrive(), shape.num_heads, shape.value_size);
    return record(ctx, "ulysses", std::move(o_THV), std::move(node),
                  {&q_THD, &k_TKD, &v_TKV, &options.sink_logit_H});
  }

 private:
  Group sp_;
  const SoftmaxBlock& kernel_;
};

}  // namespace

std::vector<HeadShare> deal_heads(int64_t num_heads, int64_t num_kv_heads, int num_ranks) {
  const std::vector<int64_t> kv_head = grouped_kv_heads(num_heads, num_kv_heads);
  std::vector<HeadShare> shares;
  for (int rank = 0; rank < num_ranks; ++rank) {
    HeadShare share;
    share.query.begin = num_heads * rank / num_ranks;
    share.query.count = num_heads * (rank + 1) / num_ranks - share.query.begin;
    if (share.query.count > 0) {
      share.kv.begin = kv_head[static_cast<size_t>(share.query.begin)];
      share.kv.count = kv_head[static_cast<size_t>(share.query.end() - 1)] + 1 - share.kv.begin;
    }
    shares.push_back(share);
  }
  return shares;
}

std::unique_ptr<SoftmaxSchedule> make_ulysses(Group sp, const SoftmaxBlock& kernel) {
  return std::make_unique<Ulysses>(std::move(sp), kernel);
}

}  // namespace longship
