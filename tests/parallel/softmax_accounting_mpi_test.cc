// The bytes that softmax schedules send, by the formulas in their headers, and their peak memory.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <ostream>
#include <set>

#include "parallel/softmax_schedule.h"
#include "parallel/usp.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/softmax_case.h"

namespace longship {
namespace {

using testing::AttentionBatch;
using testing::AttentionHeads;
using testing::bytes_with_rounding;
using testing::NaiveSoftmax;
using testing::packed_batches;
using testing::PeakBytes;
using testing::peaks_of;
using testing::plan_of;
using testing::random_batch;
using testing::world;

const NaiveSoftmax kKernel;

// Bytes that this rank sends by the formulas in the strategies' headers, counted head by head and
// token by token.
struct Bytes {
  int64_t forward = 0, backward = 0;
  bool operator==(const Bytes&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Bytes& bytes) {
  return out << bytes.forward << " bytes forward, " << bytes.backward << " backward";
}

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

DealtHeads dealt_heads(const AttentionBatch& batch, int64_t num_places) {
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

// AttentionHeads are dealt to groups of `group_size` ranks.
Bytes all_to_all_bytes(const SequencePlan& plan, const AttentionBatch& batch, int group_size) {
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
Bytes ring_bytes(const SequencePlan& plan, const AttentionBatch& batch, int group_size) {
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

Bytes usp_bytes(const SequencePlan& plan, const AttentionBatch& batch, int ulysses_degree) {
  const Bytes all_to_all = all_to_all_bytes(plan, batch, ulysses_degree);
  const Bytes ring = ring_bytes(plan, batch, ulysses_degree);
  return {all_to_all.forward + ring.forward, all_to_all.backward + ring.backward};
}

Bytes token_ring_bytes(const SequencePlan& plan, const AttentionBatch& batch) {
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

Bytes gather_kv_bytes(const SequencePlan& plan, const AttentionBatch& batch) {
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

// A schedule and what it has to send.
struct Accounted {
  std::string label;  // in front of ".fwd" and ".bwd"
  std::unique_ptr<SoftmaxSchedule> schedule;
  std::function<Bytes(const SequencePlan&, const AttentionBatch&)> formula;
};

std::vector<Accounted> all_schedules() {
  const int P = world().size();
  std::vector<Accounted> all;
  all.push_back({"ulysses", make_ulysses(world(), kKernel),
                 [=](const SequencePlan& plan, const AttentionBatch& batch) {
                   return all_to_all_bytes(plan, batch, P);
                 }});
  all.push_back({"ring", make_ring(world(), kKernel),
                 [](const SequencePlan& plan, const AttentionBatch& batch) {
                   return ring_bytes(plan, batch, 1);
                 }});
  all.push_back({"token_ring", make_token_ring(world(), kKernel), token_ring_bytes});
  all.push_back({"gather_kv", make_gather_kv(world(), kKernel), gather_kv_bytes});
  all.push_back({"usp", make_usp(world(), kKernel),
                 [=](const SequencePlan& plan, const AttentionBatch& batch) {
                   const int64_t H = batch.q_THD.dim(1), K = batch.k_TKD.dim(1);
                   return usp_bytes(plan, batch, choose_usp_degrees(H, K, P).ulysses);
                 }});
  for (int degree = 1; degree <= P; ++degree)
    if (P % degree == 0)
      all.push_back({"usp", make_usp(world(), kKernel, {.ulysses_degree = degree}),
                     [=](const SequencePlan& plan, const AttentionBatch& batch) {
                       return usp_bytes(plan, batch, degree);
                     }});
  return all;
}

// What this rank sends under a schedule's labels.
Bytes sent(const std::string& label, const SoftmaxSchedule& schedule, const AttentionBatch& batch,
           Layout layout) {
  Context ctx;
  world().reset_stats();
  testing::run(ctx, batch, schedule, plan_of(batch, layout, world()), world());
  const CommStats stats = world().stats();
  return {stats.sent_bytes(label + ".fwd"), stats.sent_bytes(label + ".bwd")};
}

constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kZigzag};

TEST(SoftmaxSchedules, SendTheBytesOfTheirFormulas) {
  Context ctx;
  for (const Accounted& accounted : all_schedules())
    for (Layout layout : kLayouts)
      for (AttentionHeads heads : {AttentionHeads{8, 1}, {8, 2}, {8, 8}, {6, 3}, {5, 5}})
        for (const auto& cu_seqlens : packed_batches())
          for (DType dtype : {DType::kBF16, DType::kF64}) {
            SCOPED_TRACE(fmt::format("{}, {}, {} heads over {}, cu_seqlens {}", accounted.label,
                                     layout_name(layout), heads.query, heads.kv,
                                     fmt::join(cu_seqlens, ",")));
            const AttentionBatch batch = random_batch(ctx, cu_seqlens, heads, dtype);
            EXPECT_EQ(sent(accounted.label, *accounted.schedule, batch, layout),
                      accounted.formula(plan_of(batch, layout, world()), batch));
          }
}

// (P - 1) / P s (D + V) (H + K) e each way, for H = 2 P and K = P.
TEST(Ulysses, SendsWhatThePaperSaysForEqualShards) {
  Context ctx;
  const int64_t P = world().size(), s = 4, width = 6 + 10, e = 2;
  for (Layout layout : kLayouts) {
    const auto schedule = make_ulysses(world(), kKernel);
    const AttentionBatch batch = random_batch(ctx, {0, s * P}, {2 * P, P}, DType::kBF16);
    const int64_t each_way = (P - 1) * s * width * e * (2 + 1);
    EXPECT_EQ(sent("ulysses", *schedule, batch, layout), (Bytes{each_way, each_way}));
    // One KV head: every rank is sent it, and its gradients come back in fp32.
    const AttentionBatch shared = random_batch(ctx, {0, s * P}, {2 * P, 1}, DType::kBF16);
    EXPECT_EQ(sent("ulysses", *schedule, shared, layout),
              (Bytes{each_way, (P - 1) * s * width * (2 * e + (P > 1 ? 4 : e))}));
  }
}

// (P-1) s K (D + V) e forward; as much and P s K (D + V) 4 of gradients backward.
TEST(Ring, SendsWhatThePaperSaysForEqualShards) {
  Context ctx;
  const int64_t P = world().size(), s = 4, width = 2 * (6 + 10), e = 2;
  for (Layout layout : kLayouts) {
    const AttentionBatch batch = random_batch(ctx, {0, s * P}, {8, 2}, DType::kBF16);
    const int64_t forward = (P - 1) * s * width * e;
    EXPECT_EQ(sent("ring", *make_ring(world(), kKernel), batch, layout),
              (Bytes{forward, P == 1 ? 0 : forward + P * s * width * 4}));
  }
}

// Both of the above, with u s tokens of K / u heads on a group.
TEST(Usp, SendsWhatThePapersSayForEqualShards) {
  Context ctx;
  const int64_t P = world().size(), s = 4, H = 16, K = 8, width = 6 + 10, e = 2;
  for (int64_t u : {1, 2, 4, 8}) {
    if (P % u != 0) continue;
    const int64_t r = P / u;
    const auto schedule = make_usp(world(), kKernel, {.ulysses_degree = static_cast<int>(u)});
    const AttentionBatch batch = random_batch(ctx, {0, s * P}, {H, K}, DType::kBF16);
    const int64_t forward = (u - 1) * s * width * e * (H + K) / u + (r - 1) * s * K * width * e;
    for (Layout layout : kLayouts)
      EXPECT_EQ(sent("usp", *schedule, batch, layout),
                (Bytes{forward, forward + (r > 1 ? r * s * K * width * 4 : 0)}))
          << "degree " << u;
  }
}

TEST(TokenRing, SendsQueriesAsFarAsTheySeeKeys) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank(), s = 4, H = 4, D = 6, V = 10;
  const auto schedule = make_token_ring(world(), kKernel);
  const AttentionBatch batch = random_batch(ctx, {0, s * P}, {H, 2}, DType::kBF16);
  // Queries of the ranks r .. P - 1 pass on through r, unless it is the first; r computes for all
  // later ranks.
  const int64_t passed_on = r > 0 ? P - r : 0, returned = P - 1 - r;
  EXPECT_EQ(sent("token_ring", *schedule, batch, Layout::kContiguous),
            (Bytes{s * H * (passed_on * D * 2 + returned * (V + 1) * 4),
                   s * H * (passed_on * ((D + V) * 2 + 2 * 4) + returned * D * 4)}));
  // All ranks together: halves of the queries where they have passed rank 0.
  const Bytes zigzag = sent("token_ring", *schedule, batch, Layout::kZigzag);
  const int64_t rows = (P * (P - 1) / 2) * (s + s / 2) * H;
  EXPECT_EQ(world().all_reduce_value("test", zigzag.forward, ReduceOp::kSum),
            rows * (D * 2 + (V + 1) * 4));
  EXPECT_EQ(world().all_reduce_value("test", zigzag.backward, ReduceOp::kSum),
            rows * ((D + V) * 2 + 2 * 4 + D * 4));
}

TEST(GatherKv, SendsKeysOnlyToTheRanksThatSeeThem) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank(), s = 8, width = 2 * (6 + 10), e = 2;
  const auto schedule = make_gather_kv(world(), kKernel);
  auto expect_sent = [&](Layout layout, int64_t window, int64_t keys, int64_t gradients) {
    const AttentionBatch batch =
        random_batch(ctx, {0, s * P}, {8, 2}, DType::kBF16, {.scale = 0.4, .window = window});
    EXPECT_EQ(sent("gather_kv", *schedule, batch, layout),
              (Bytes{keys * width * e, keys * width * e + gradients * width * 4}))
        << layout_name(layout) << ", window " << window;
  };
  const int64_t before = r, after = P - 1 - r;
  expect_sent(Layout::kContiguous, 0, after * s, before * s);
  // Of later ranks a rank sees both chunks, of earlier ones the first.
  expect_sent(Layout::kZigzag, 0, before * s + after * s / 2, after * s + before * s / 2);
  // The last two keys, and the whole shard beside the last key.
  expect_sent(Layout::kContiguous, 3, after > 0 ? 2 : 0, before > 0 ? 2 : 0);
  expect_sent(Layout::kContiguous, s + 2, (after > 0 ? s : 0) + (after > 1 ? 1 : 0),
              (before > 0 ? s : 0) + (before > 1 ? 1 : 0));
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
    const PeakBytes peaks = peaks_of(*make_ring(sp, kKernel), plan, {H, K});
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

// Groups of two ranks: what a ring needs for twice the tokens and half of the heads, and the
// all-to-alls. No more than that however many groups there are.
TEST(Usp, PeakMemoryDependsOnTheTokensOfAGroupOnly) {
  const int64_t s = 32, H = 4, K = 2, D = 6, V = 10;
  const int64_t kv = s * K * (D + V), q = s * H * D, o = s * H * V, lse = s * H;
  std::set<int64_t> forward_peaks, backward_peaks;
  for_each_group_size([&](const Group& sp) {
    if (sp.size() % 2 != 0) return;
    const auto plan = SequencePlan::make({0, s * sp.size()}, Layout::kZigzag, sp.size(), sp.rank());
    const auto schedule = make_usp(sp, kKernel, {.ulysses_degree = 2});
    const PeakBytes peaks = peaks_of(*schedule, plan, {H, K});
    // q, k, v of the heads; the ring's buffers and two outputs.
    EXPECT_LE(peaks.forward, bytes_with_rounding(q + kv + 2 * kv + 2 * (o + lse)));
    // do; the ring's five buffers, dq and delta; what of them arrives.
    EXPECT_LE(peaks.backward, bytes_with_rounding(o + 5 * kv + q + lse + kv + q));
    if (sp.size() >= 6) {
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
    const PeakBytes peaks = peaks_of(*make_token_ring(sp, kKernel), plan, {H, K});
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
    const PeakBytes peaks = peaks_of(*make_gather_kv(world(), kKernel), plan, {2 * K, K});
    // o, lse and, in the backward, delta, dq, dk and dv of all heads; the rest of one group or two.
    const int64_t forward = s * 2 * K * (V + 1) + (2 * N + s) * (D + V) + s * 2 * (D + V + 1);
    const int64_t backward =
        s * 2 * K * (1 + D) + s * K * (D + V) + (4 * N + P * s) * (D + V) + s * 2 * (2 * D + V + 2);
    EXPECT_LE(peaks.forward, bytes_with_rounding(forward)) << K << " KV heads";
    EXPECT_LE(peaks.backward, bytes_with_rounding(backward)) << K << " KV heads";
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
