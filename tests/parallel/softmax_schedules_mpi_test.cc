// The softmax schedules against the definition of attention on the whole batch.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>
#include <span>

#include "parallel/softmax_schedule.h"
#include "parallel/usp.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/softmax_case.h"

namespace longship {
namespace {

using testing::bytes_with_rounding;
using testing::cu_seqlens_of;
using testing::gather;
using testing::NaiveSoftmax;
using testing::packed_batches;
using testing::peaks_of;
using testing::plan_of;
using testing::run;
using testing::same_bits;
using testing::world;
using Batch = testing::AttentionBatch;
using Heads = testing::AttentionHeads;
using Peaks = testing::PeakBytes;
using Results = testing::AttentionResults;

const NaiveSoftmax kKernel;

struct Strategy {
  std::string name;
  Layout layout;

  std::unique_ptr<SoftmaxSchedule> make(const Group& sp,
                                        const SoftmaxBlock& kernel = kKernel) const {
    if (name == "ulysses") return make_ulysses(sp, kernel);
    if (name == "ring") return make_ring(sp, kernel);
    if (name == "token_ring") return make_token_ring(sp, kernel);
    if (name == "usp") return make_usp(sp, kernel);
    LONGSHIP_CHECK(name == "gather_kv", "strategy {}", name);
    return make_gather_kv(sp, kernel);
  }
  std::string label() const { return fmt::format("{} {}", name, layout_name(layout)); }
};

std::vector<Strategy> strategies() {
  std::vector<Strategy> all;
  for (const char* name : {"ulysses", "ring", "usp", "token_ring", "gather_kv"})
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) all.push_back({name, layout});
  return all;
}

constexpr Heads kHeads[] = {{8, 1}, {8, 2}, {8, 8}, {6, 3}, {5, 5}};
constexpr Heads kFewHeads[] = {{8, 2}, {5, 5}};

Batch make_batch(Context& ctx, const std::vector<int64_t>& cu_seqlens, Heads heads, DType dtype,
                 int64_t window = 0) {
  return testing::random_batch(ctx, cu_seqlens, heads, dtype, {.scale = 0.4, .window = window});
}

Results run(Context& ctx, const Batch& batch, const Strategy& strategy, const Group& sp) {
  return run(ctx, batch, *strategy.make(sp), plan_of(batch, strategy.layout, sp), sp);
}

// Calls f(strategy, heads, cu_seqlens) for every case, with a trace for failures.
template <class F>
void for_each_case(std::span<const Heads> all_heads, F&& f) {
  for (const Strategy& strategy : strategies())
    for (Heads heads : all_heads)
      for (const auto& cu_seqlens : packed_batches()) {
        SCOPED_TRACE(fmt::format("{}, {} heads over {} key/value heads, cu_seqlens {}",
                                 strategy.label(), heads.query, heads.kv,
                                 fmt::join(cu_seqlens, ",")));
        f(strategy, heads, cu_seqlens);
      }
}

void expect_equal_to_definition(std::span<const Heads> all_heads, DType dtype, double forward_bound,
                                double gradient_bound, int64_t window = 0) {
  Context ctx;
  for_each_case(all_heads, [&](const Strategy& strategy, Heads heads,
                               const std::vector<int64_t>& cu_seqlens) {
    const Batch batch = make_batch(ctx, cu_seqlens, heads, dtype, window);
    testing::expect_equal_to_definition(ctx, batch, run(ctx, batch, strategy, world()),
                                        forward_bound, gradient_bound);
  });
}

TEST(SoftmaxSchedules, EqualTheWholeBatchInFp32) {
  expect_equal_to_definition(kHeads, DType::kF32, 1e-6, 1e-5);
}

TEST(SoftmaxSchedules, EqualTheWholeBatchInFp64) {
  expect_equal_to_definition(kHeads, DType::kF64, 1e-13, 1e-13);
}

// o is rounded once (2^-9 at most, 2^-9 / sqrt(3) in the mean); the gradients once more, and o
// enters them through delta.
TEST(SoftmaxSchedules, EqualTheWholeBatchInBf16WithinItsRounding) {
  expect_equal_to_definition(kFewHeads, DType::kBF16, 2e-3, 5e-3);
}

TEST(SoftmaxSchedules, EqualTheWholeBatchUnderASlidingWindow) {
  for (int64_t window : {1, 5, 24}) {
    SCOPED_TRACE(fmt::format("window {}", window));
    expect_equal_to_definition(kFewHeads, DType::kF64, 1e-13, 1e-13, window);
  }
}

TEST(SoftmaxSchedules, TwoRunsGiveTheSameBits) {
  Context ctx;
  for_each_case(kFewHeads,
                [&](const Strategy& strategy, Heads heads, const std::vector<int64_t>& cu_seqlens) {
                  const Batch batch = make_batch(ctx, cu_seqlens, heads, DType::kF32);
                  const Results first = run(ctx, batch, strategy, world());
                  const Results second = run(ctx, batch, strategy, world());
                  EXPECT_TRUE(same_bits(first, second));
                });
}

// Their queries see the keys of a document in one piece, as on one rank.
TEST(UlyssesAndGatherKv, ContiguousOutputHasTheBitsOfOneRank) {
  Context ctx;
  const Group one = Group::self();
  for (const char* name : {"ulysses", "gather_kv"})
    for (Heads heads : kHeads)
      for (const auto& cu_seqlens : packed_batches()) {
        const Batch batch = make_batch(ctx, cu_seqlens, heads, DType::kF32);
        const Strategy strategy = {name, Layout::kContiguous};
        EXPECT_TRUE(same_bits(run(ctx, batch, strategy, world()).o_THV,
                              run(ctx, batch, strategy, one).o_THV))
            << name;
      }
}

TEST(GatherKv, GivesTheSameBitsHoweverHeadsAreGrouped) {
  Context ctx;
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
    const Batch batch = make_batch(ctx, cu_seqlens_of({13, 1, 20}), {10, 5}, DType::kBF16);
    const SequencePlan plan = plan_of(batch, layout, world());
    const Results one_by_one = run(ctx, batch, {"gather_kv", layout}, world());
    for (int64_t heads_per_group : {2, 3, 5, 100})
      EXPECT_TRUE(same_bits(
          run(ctx, batch, *make_gather_kv(world(), kKernel, heads_per_group), plan, world()),
          one_by_one))
          << heads_per_group;
  }
  EXPECT_THROW(make_gather_kv(world(), kKernel, 0), Error);
}

TEST(SoftmaxSchedules, ATokenReachesOnlyLaterPositionsOfItsOwnDocument) {
  Context ctx;
  for (const Strategy& strategy : strategies()) {
    SCOPED_TRACE(strategy.label());
    testing::expect_reach_of_tokens(ctx, *strategy.make(world()), strategy.layout, world());
  }
}

// Bytes that this rank sends by the formulas in the strategies' headers, counted head by head and
// token by token.
struct Bytes {
  int64_t forward = 0, backward = 0;
};

// The smallest range that covers some rows.
struct Cover {
  int64_t first = std::numeric_limits<int64_t>::max(), last = -1;

  void add(int64_t row) {
    first = std::min(first, row);
    last = std::max(last, row);
  }
  int64_t length() const { return last < 0 ? 0 : last - first + 1; }
};

// Rows of one rank's queries and of another's keys that meet, from the definition of the mask.
struct Meeting {
  Cover queries;
  std::set<int64_t> keys;
  int64_t num_keys() const { return static_cast<int64_t>(keys.size()); }
};

Meeting meeting_of(const SequencePlan& plan, int query_rank, int key_rank) {
  Meeting meeting;
  for (const Segment& q : plan.segments(query_rank))
    for (const Segment& k : plan.segments(key_rank))
      for (int64_t i = 0; i < q.length && q.document == k.document; ++i)
        for (int64_t j = 0; j < k.length && k.position + j <= q.position + i; ++j) {
          meeting.queries.add(q.slot + i);
          meeting.keys.insert(k.slot + j);
        }
  return meeting;
}

// The heads of a rank when `num_places` ranks share them.
struct DealtHeads {
  std::vector<int64_t> query;         // how many, by place
  std::vector<std::set<int64_t>> kv;  // which, by place
  bool shared = false;                // some KV head is at several places
};

DealtHeads dealt_heads(const Batch& batch, int64_t num_places) {
  const int64_t H = batch.q_THD.dim(1), K = batch.k_TKD.dim(1);
  DealtHeads dealt;
  std::vector<int> uses(static_cast<size_t>(K));
  for (int64_t p = 0; p < num_places; ++p) {
    dealt.query.push_back(H * (p + 1) / num_places - H * p / num_places);
    std::set<int64_t>& kv = dealt.kv.emplace_back();
    for (int64_t h = H * p / num_places; h < H * (p + 1) / num_places; ++h) kv.insert(h * K / H);
    for (int64_t head : kv) ++uses[static_cast<size_t>(head)];
  }
  dealt.shared = *std::max_element(uses.begin(), uses.end()) > 1;
  return dealt;
}

// Heads are dealt to groups of `group_size` ranks.
Bytes all_to_all_bytes(const SequencePlan& plan, const Batch& batch, int group_size) {
  const int64_t D = batch.q_THD.dim(2), V = batch.v_TKV.dim(2);
  const int64_t e = dtype_size(batch.q_THD.dtype());
  const DealtHeads dealt = dealt_heads(batch, group_size);
  const int64_t g = dealt.shared ? dtype_size(accumulator_dtype(batch.q_THD.dtype())) : e;
  const int r = plan.rank(), first = r / group_size * group_size;
  auto num_query = [&](int p) { return dealt.query[static_cast<size_t>(p - first)]; };
  auto num_kv = [&](int p) { return std::ssize(dealt.kv[static_cast<size_t>(p - first)]); };
  Bytes bytes;
  for (int p = first; p < first + group_size; ++p) {
    if (p == r) continue;
    bytes.forward += plan.num_tokens(r) * (num_query(p) * D + num_kv(p) * (D + V)) * e;
    bytes.forward += plan.num_tokens(p) * num_query(r) * V * e;
    bytes.backward += plan.num_tokens(r) * num_query(p) * V * e;
    bytes.backward += plan.num_tokens(p) * (num_query(r) * D * e + num_kv(r) * (D + V) * g);
  }
  return bytes;
}

// Keys and values travel between groups of `group_size` ranks, which share the heads.
Bytes ring_bytes(const SequencePlan& plan, const Batch& batch, int group_size) {
  const DealtHeads dealt = dealt_heads(batch, group_size);
  const int64_t width = std::ssize(dealt.kv[static_cast<size_t>(plan.rank() % group_size)]) *
                        (batch.k_TKD.dim(2) + batch.v_TKV.dim(2));
  const int64_t e = dtype_size(batch.q_THD.dtype());
  const int64_t g = dtype_size(accumulator_dtype(batch.q_THD.dtype()));
  const int num_groups = plan.num_ranks() / group_size;
  int steps = 0;
  for (int q = 0; q < plan.num_ranks(); ++q)
    for (int k = 0; k < plan.num_ranks(); ++k)
      if (!meeting_of(plan, q, k).keys.empty())
        steps = std::max(steps, (q / group_size - k / group_size + num_groups) % num_groups);
  auto tokens_at = [&](int step) {
    const int group = (plan.rank() / group_size - step + num_groups) % num_groups;
    int64_t tokens = 0;
    for (int place = 0; place < group_size; ++place)
      tokens += plan.num_tokens(group * group_size + place);
    return tokens;
  };
  Bytes bytes;
  for (int step = 0; step < steps; ++step) {
    bytes.forward += tokens_at(step) * width * e;
    bytes.backward += tokens_at(step) * width * (e + g);
  }
  if (steps > 0) bytes.backward += tokens_at(steps) * width * g;
  return bytes;
}

Bytes usp_bytes(const SequencePlan& plan, const Batch& batch, int ulysses_degree) {
  const Bytes all_to_all = all_to_all_bytes(plan, batch, ulysses_degree);
  const Bytes ring = ring_bytes(plan, batch, ulysses_degree);
  return {all_to_all.forward + ring.forward, all_to_all.backward + ring.backward};
}

Bytes token_ring_bytes(const SequencePlan& plan, const Batch& batch) {
  const int64_t H = batch.q_THD.dim(1), D = batch.q_THD.dim(2), V = batch.v_TKV.dim(2);
  const int64_t e = dtype_size(batch.q_THD.dtype());
  const int64_t g = dtype_size(accumulator_dtype(batch.q_THD.dtype()));
  const int P = plan.num_ranks();
  // Rows of an owner's queries that see keys `step` ranks before it, or further.
  auto travelling = [&](int owner, int step) {
    Cover rows;
    for (int later = step; later < P; ++later) {
      const Cover seeing = meeting_of(plan, owner, (owner - later + P) % P).queries;
      if (seeing.length() == 0) continue;
      rows.add(seeing.first);
      rows.add(seeing.last);
    }
    return rows.length();
  };
  Bytes bytes;
  for (int step = 1; step < P; ++step) {
    const int64_t passed_on = travelling((plan.rank() + step - 1) % P, step) * H;
    const int owner = (plan.rank() + step) % P;
    const int64_t returned = meeting_of(plan, owner, plan.rank()).queries.length() * H;
    bytes.forward += passed_on * D * e + returned * (V + 1) * g;
    bytes.backward += passed_on * ((D + V) * e + 2 * g) + returned * D * g;
  }
  return bytes;
}

Bytes gather_kv_bytes(const SequencePlan& plan, const Batch& batch) {
  const int64_t width = batch.k_TKD.dim(1) * (batch.k_TKD.dim(2) + batch.v_TKV.dim(2));
  const int64_t e = dtype_size(batch.q_THD.dtype());
  const int64_t g = dtype_size(accumulator_dtype(batch.q_THD.dtype()));
  const int r = plan.rank();
  Bytes bytes;
  for (int p = 0; p < plan.num_ranks(); ++p) {
    if (p == r) continue;
    bytes.forward += meeting_of(plan, p, r).num_keys() * width * e;
    bytes.backward += meeting_of(plan, r, p).num_keys() * width * g;
  }
  bytes.backward += bytes.forward;
  return bytes;
}

Bytes bytes_of(const std::string& strategy, const SequencePlan& plan, const Batch& batch) {
  const int P = plan.num_ranks();
  if (strategy == "ulysses") return all_to_all_bytes(plan, batch, P);
  if (strategy == "ring") return ring_bytes(plan, batch, 1);
  if (strategy == "usp")
    return usp_bytes(plan, batch,
                     choose_usp_degrees(batch.q_THD.dim(1), batch.k_TKD.dim(1), P).ulysses);
  if (strategy == "token_ring") return token_ring_bytes(plan, batch);
  return gather_kv_bytes(plan, batch);
}

TEST(SoftmaxSchedules, SendTheBytesOfTheirFormulas) {
  Context ctx;
  for_each_case(kHeads, [&](const Strategy& strategy, Heads heads,
                            const std::vector<int64_t>& cu_seqlens) {
    const Batch batch = make_batch(ctx, cu_seqlens, heads, DType::kBF16);
    const Bytes expected = bytes_of(strategy.name, plan_of(batch, strategy.layout, world()), batch);
    world().reset_stats();
    run(ctx, batch, strategy, world());
    EXPECT_EQ(world().stats().sent_bytes(strategy.name + ".fwd"), expected.forward);
    EXPECT_EQ(world().stats().sent_bytes(strategy.name + ".bwd"), expected.backward);
  });
}

TEST(Ring, SendsWhatThePaperSaysForEqualShards) {
  Context ctx;
  const int64_t P = world().size(), s = 4;
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
    const Batch batch = make_batch(ctx, {0, s * P}, {8, 2}, DType::kBF16);
    world().reset_stats();
    run(ctx, batch, {"ring", layout}, world());
    const int64_t width = 2 * (6 + 10);
    EXPECT_EQ(world().stats().sent_bytes("ring.fwd"), (P - 1) * s * width * 2);
    EXPECT_EQ(world().stats().sent_bytes("ring.bwd"),
              P == 1 ? 0 : (P - 1) * s * width * 2 + P * s * width * 4);
  }
}

TEST(TokenRing, SendsQueriesAsFarAsTheySeeKeys) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank(), s = 4, H = 4, D = 6, V = 10;
  auto sent = [&](Layout layout, const char* label) {
    const Batch batch = make_batch(ctx, {0, s * P}, {H, 2}, DType::kBF16);
    world().reset_stats();
    run(ctx, batch, {"token_ring", layout}, world());
    return world().stats().sent_bytes(label);
  };
  // Queries of the ranks r .. P - 1 pass on through r, unless it is the first; r computes for all
  // later ranks.
  const int64_t passed_on = r > 0 ? P - r : 0, returned = P - 1 - r;
  EXPECT_EQ(sent(Layout::kContiguous, "token_ring.fwd"),
            s * H * (passed_on * D * 2 + returned * (V + 1) * 4));
  EXPECT_EQ(sent(Layout::kContiguous, "token_ring.bwd"),
            s * H * (passed_on * ((D + V) * 2 + 2 * 4) + returned * D * 4));
  // All ranks together: halves of the queries where they have passed rank 0.
  const int64_t total =
      world().all_reduce_value("test", sent(Layout::kZigzag, "token_ring.fwd"), ReduceOp::kSum);
  EXPECT_EQ(total, (P * (P - 1) / 2) * (s + s / 2) * H * (D * 2 + (V + 1) * 4));
}

TEST(GatherKv, SendsKeysOnlyToTheRanksThatSeeThem) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank(), s = 8, width = 2 * (6 + 10) * 2;
  auto sent = [&](Layout layout, int64_t window) {
    const Batch batch = make_batch(ctx, {0, s * P}, {8, 2}, DType::kBF16, window);
    world().reset_stats();
    run(ctx, batch, {"gather_kv", layout}, world());
    return world().stats().sent_bytes("gather_kv.fwd");
  };
  EXPECT_EQ(sent(Layout::kContiguous, 0), (P - 1 - r) * s * width);
  EXPECT_EQ(sent(Layout::kZigzag, 0), (r * s + (P - 1 - r) * s / 2) * width);
  // The last two keys, and the whole shard beside the last key.
  EXPECT_EQ(sent(Layout::kContiguous, 3), r + 1 < P ? 2 * width : 0);
  EXPECT_EQ(sent(Layout::kContiguous, s + 2),
            (r + 1 < P ? s * width : 0) + (r + 2 < P ? 1 * width : 0));
}

// Counts the blocks that it is asked for.
class CountingSoftmax final : public SoftmaxBlock {
 public:
  SoftmaxBlockOutput forward(Context& ctx, const SoftmaxBlockInput& input,
                             const BlockMask& mask) const override {
    ++num_forward;
    return kKernel.forward(ctx, input, mask);
  }
  void backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                const SoftmaxBlockBackward& gradients) const override {
    ++num_backward;
    kKernel.backward(ctx, input, mask, gradients);
  }
  mutable int num_forward = 0, num_backward = 0;
};

TEST(RingAndTokenRing, ComputeNoBlockThatTheMaskHides) {
  Context ctx;
  const int size = world().size(), rank = world().rank(), half = (size + 1) / 2;
  // A ring computes the keys that this rank sees, a token ring the queries that see this rank.
  struct Expected {
    Layout layout;
    std::vector<int64_t> cu_seqlens;
    int ring, token_ring;
  };
  for (const Expected& expected :
       {Expected{Layout::kContiguous, {0, 4 * size}, rank + 1, size - rank},
        Expected{Layout::kZigzag, {0, 4 * size}, size, size},
        Expected{Layout::kContiguous,
                 {0, 4 * half, 4 * size},
                 rank < half ? rank + 1 : rank - half + 1,
                 rank < half ? half - rank : size - rank}}) {
    for (const char* name : {"ring", "token_ring"}) {
      SCOPED_TRACE(name);
      const Strategy strategy = {name, expected.layout};
      const Batch batch = make_batch(ctx, expected.cu_seqlens, {2, 1}, DType::kF32);
      const SequencePlan plan = plan_of(batch, strategy.layout, world());
      CountingSoftmax kernel;
      run(ctx, batch, *strategy.make(world(), kernel), plan, world());
      const int blocks = strategy.name == "ring" ? expected.ring : expected.token_ring;
      EXPECT_EQ(kernel.num_forward, blocks);
      EXPECT_EQ(kernel.num_backward, blocks);
    }
  }
}

// Calls f(sp) for the groups of the first 1, 2, 3, .. ranks, on their members.
template <class F>
void for_each_group_size(F&& f) {
  for (int size = 1; size <= world().size(); ++size) {
    const bool member = world().rank() < size;
    const Group sp = world().split(member ? 0 : 1, world().rank());
    if (!member) continue;
    SCOPED_TRACE(fmt::format("{} ranks", size));
    f(sp);
  }
}

// 32 tokens on each rank of ever larger groups: the peak is that of two ranks plus one more buffer
// of keys and values, and no more however many ranks there are.
TEST(Ring, PeakMemoryDependsOnTheLocalTokensOnly) {
  const int64_t s = 32, H = 4, K = 2, D = 6, V = 10;
  const int64_t kv = s * K * (D + V), o = s * H * (V + 1);
  std::set<int64_t> forward_peaks, backward_peaks;
  for_each_group_size([&](const Group& sp) {
    const auto plan = SequencePlan::make({0, s * sp.size()}, Layout::kZigzag, sp.size(), sp.rank());
    const Peaks peaks = peaks_of(*make_ring(sp, kKernel), plan, {H, K});
    EXPECT_LE(peaks.forward, bytes_with_rounding(2 * kv + 2 * o));
    EXPECT_LE(peaks.backward, bytes_with_rounding(5 * kv + s * H * (D + 1)));
    if (sp.size() >= 3) {
      forward_peaks.insert(peaks.forward);
      backward_peaks.insert(peaks.backward);
    }
  });
  EXPECT_LE(forward_peaks.size(), 1u);
  EXPECT_LE(backward_peaks.size(), 1u);
}

TEST(TokenRing, PeakMemoryDependsOnTheLocalTokensOnly) {
  const int64_t s = 32, H = 4, K = 2, D = 6, V = 10;
  const int64_t forward = 2 * s * H * D + 4 * s * H * (V + 1);
  const int64_t backward = s * H + 2 * s * H * (D + V + 2) + 4 * s * H * D + s * K * (D + V);
  for_each_group_size([&](const Group& sp) {
    const auto plan = SequencePlan::make({0, s * sp.size()}, Layout::kZigzag, sp.size(), sp.rank());
    const Peaks peaks = peaks_of(*make_token_ring(sp, kKernel), plan, {H, K});
    EXPECT_LE(peaks.forward, bytes_with_rounding(forward));
    EXPECT_LE(peaks.backward, bytes_with_rounding(backward));
  });
}

// Whatever the number of KV heads, keys and values of two of them are here at a time.
TEST(GatherKv, PeakMemoryIsThatOfTwoGroupsOfHeads) {
  const int64_t P = world().size(), s = 32, D = 6, V = 10;
  const auto plan = SequencePlan::make({0, s * P}, Layout::kZigzag, world().size(), world().rank());
  int64_t N = 0;
  for (int p = 0; p < world().size(); ++p) N += meeting_of(plan, world().rank(), p).num_keys();
  for (int64_t K : {1, 2, 8}) {
    const Peaks peaks = peaks_of(*make_gather_kv(world(), kKernel), plan, {2 * K, K});
    // o, lse and, in the backward, delta, dq, dk and dv of all heads; the rest of one group or two.
    const int64_t forward = s * 2 * K * (V + 1) + (2 * N + s) * (D + V) + s * 2 * (D + V + 1);
    const int64_t backward =
        s * 2 * K * (1 + D) + s * K * (D + V) + (4 * N + P * s) * (D + V) + s * 2 * (2 * D + V + 2);
    EXPECT_LE(peaks.forward, bytes_with_rounding(forward)) << K << " KV heads";
    EXPECT_LE(peaks.backward, bytes_with_rounding(backward)) << K << " KV heads";
  }
}

TEST(SoftmaxSchedules, InferenceGivesTheBitsOfTrainingAndSavesNothing) {
  Context ctx;
  const Batch batch = make_batch(ctx, cu_seqlens_of({13, 1, 20}), {6, 3}, DType::kBF16);
  for (const Strategy& strategy : strategies()) {
    const SequencePlan plan = plan_of(batch, strategy.layout, world());
    const auto schedule = strategy.make(world());
    const Tensor q = plan.shard(ctx, batch.q_THD), k = plan.shard(ctx, batch.k_TKD),
                 v = plan.shard(ctx, batch.v_TKV);
    Tape tape;
    ctx.tape = &tape;
    const Variable trained = schedule->attend(ctx, Variable::leaf(q), k, v, plan, batch.options);
    std::set<std::string, std::less<>> saved;
    tape.visit_saved(
        [&](std::string_view, std::string_view name, Tensor&) { saved.insert(std::string(name)); });
    EXPECT_EQ(saved.size(), 5u) << strategy.label();
    tape.clear();
    const Variable constant = schedule->attend(ctx, q, k, v, plan, batch.options);
    EXPECT_EQ(tape.num_nodes(), 0u);
    EXPECT_FALSE(constant.requires_grad());
    ctx.tape = nullptr;
    EXPECT_TRUE(same_bits(trained.value(), constant.value())) << strategy.label();
  }
}

TEST(SoftmaxSchedules, GiveGradientsOnlyToInputsThatWantThem) {
  Context ctx;
  const Batch batch = make_batch(ctx, cu_seqlens_of({13, 1, 20}), {6, 3}, DType::kF32);
  for (const Strategy& strategy : strategies()) {
    const Results all = run(ctx, batch, strategy, world());
    const SequencePlan plan = plan_of(batch, strategy.layout, world());
    const auto schedule = strategy.make(world());
    for (size_t wanted = 0; wanted < 3; ++wanted) {
      Variable inputs[] = {plan.shard(ctx, batch.q_THD), plan.shard(ctx, batch.k_TKD),
                           plan.shard(ctx, batch.v_TKV)};
      inputs[wanted] = Variable::leaf(inputs[wanted].value());
      Tape tape;
      ctx.tape = &tape;
      const Variable o =
          schedule->attend(ctx, inputs[0], inputs[1], inputs[2], plan, batch.options);
      tape.backward(ctx, o, plan.shard(ctx, batch.do_THV));
      ctx.tape = nullptr;
      EXPECT_TRUE(same_bits(gather(ctx, world(), plan, inputs[wanted].gradient()->sum()),
                            all.gradients()[wanted].second))
          << strategy.label() << " " << all.gradients()[wanted].first;
    }
  }
}

TEST(SoftmaxSchedules, RefuseAPlanOfOtherRanksAndTensorsThatDoNotFit) {
  Context ctx;
  const Batch batch = make_batch(ctx, {0, 24}, {4, 2}, DType::kF32);
  for (const Strategy& strategy : strategies()) {
    const auto schedule = strategy.make(world());
    auto attend = [&](const SequencePlan& plan, const Tensor& k, const Tensor& v) {
      schedule->attend(ctx, plan.shard(ctx, batch.q_THD), k, v, plan, batch.options);
    };
    const SequencePlan other =
        SequencePlan::make({0, 24}, strategy.layout, world().size() + 1, world().rank());
    EXPECT_THROW(attend(other, other.shard(ctx, batch.k_TKD), other.shard(ctx, batch.v_TKV)),
                 Error);
    const SequencePlan plan = plan_of(batch, strategy.layout, world());
    const Tensor k = plan.shard(ctx, batch.k_TKD), v = plan.shard(ctx, batch.v_TKV);
    EXPECT_THROW(attend(plan, k, v.slice(1, 0, 1)), Error);
    EXPECT_THROW(attend(plan, k, v.to(DType::kBF16)), Error);
    EXPECT_THROW(attend(plan, k.slice(2, 0, 5), v), Error);
    EXPECT_THROW(attend(plan, batch.k_TKD.slice(0, 0, plan.num_local_tokens() - 1), v), Error);
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
