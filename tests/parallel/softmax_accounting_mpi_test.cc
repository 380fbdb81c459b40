// The bytes that softmax schedules send, by the formulas in their headers, and their peak memory.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "parallel/softmax_schedule.h"
#include "parallel/usp.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/softmax_bytes.h"
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
using testing::SoftmaxBytes;
using testing::world;

const NaiveSoftmax kKernel;

// A schedule and what it has to send.
struct Accounted {
  std::string label;  // in front of ".fwd" and ".bwd"
  std::unique_ptr<SoftmaxSchedule> schedule;
  std::function<SoftmaxBytes(const SequencePlan&, const AttentionBatch&)> formula;
};

std::vector<Accounted> all_schedules() {
  const int P = world().size();
  std::vector<Accounted> all;
  all.push_back({"ulysses", make_ulysses(world(), kKernel), testing::ulysses_bytes});
  all.push_back({"ring", make_ring(world(), kKernel), testing::ring_bytes});
  all.push_back({"token_ring", make_token_ring(world(), kKernel), testing::token_ring_bytes});
  all.push_back({"gather_kv", make_gather_kv(world(), kKernel), testing::gather_kv_bytes});
  all.push_back({"usp", make_usp(world(), kKernel),
                 [=](const SequencePlan& plan, const AttentionBatch& batch) {
                   const int64_t H = batch.q_THD.dim(1), K = batch.k_TKD.dim(1);
                   return testing::usp_bytes(plan, batch, choose_usp_degrees(H, K, P).ulysses);
                 }});
  for (int degree = 1; degree <= P; ++degree)
    if (P % degree == 0)
      all.push_back({"usp", make_usp(world(), kKernel, {.ulysses_degree = degree}),
                     [=](const SequencePlan& plan, const AttentionBatch& batch) {
                       return testing::usp_bytes(plan, batch, degree);
                     }});
  return all;
}

// What this rank sends under a schedule's labels.
SoftmaxBytes sent(const std::string& label, const SoftmaxSchedule& schedule,
                  const AttentionBatch& batch, Layout layout) {
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
    EXPECT_EQ(sent("ulysses", *schedule, batch, layout), (SoftmaxBytes{each_way, each_way}));
    // One KV head: every rank is sent it, and its gradients come back in fp32.
    const AttentionBatch shared = random_batch(ctx, {0, s * P}, {2 * P, 1}, DType::kBF16);
    EXPECT_EQ(sent("ulysses", *schedule, shared, layout),
              (SoftmaxBytes{each_way, (P - 1) * s * width * (2 * e + (P > 1 ? 4 : e))}));
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
              (SoftmaxBytes{forward, P == 1 ? 0 : forward + P * s * width * 4}));
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
                (SoftmaxBytes{forward, forward + (r > 1 ? r * s * K * width * 4 : 0)}))
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
            (SoftmaxBytes{s * H * (passed_on * D * 2 + returned * (V + 1) * 4),
                          s * H * (passed_on * ((D + V) * 2 + 2 * 4) + returned * D * 4)}));
  // All ranks together: halves of the queries where they have passed rank 0.
  const SoftmaxBytes zigzag = sent("token_ring", *schedule, batch, Layout::kZigzag);
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
              (SoftmaxBytes{keys * width * e, keys * width * e + gradients * width * 4}))
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
  for (int p = 0; p < world().size(); ++p) N += testing::num_keys_seen(plan, world().rank(), p);
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
