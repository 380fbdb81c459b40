// Sliding windows by halo exchange against the definition of attention on the whole batch.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include <set>

#include "parallel/softmax_schedule.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/noting_softmax.h"
#include "tests/support/softmax_case.h"

namespace longship {
namespace {

using testing::AttentionBatch;
using testing::AttentionHeads;
using testing::AttentionResults;
using testing::bytes_with_rounding;
using testing::expect_equal_to_definition;
using testing::expect_reach_of_tokens;
using testing::mask_text;
using testing::NaiveSoftmax;
using testing::NotingSoftmax;
using testing::packed_batches;
using testing::Pass;
using testing::PeakBytes;
using testing::peaks_of;
using testing::plan_of;
using testing::random_batch;
using testing::same_bits;
using testing::world;

const NaiveSoftmax kKernel;

constexpr AttentionHeads kHeads[] = {{8, 1}, {6, 3}};
constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kZigzag};

AttentionOptions window_of(int64_t window) {
  return {.scale = 0.4, .window = window};
}

// Calls f(layout, window, cu_seqlens) for every case, with a trace for failures. A shard of one of
// 8 ranks has 7 or 8 tokens, so that windows end before, at and after its end and reach over
// several shards, and over the whole document.
template <class F>
void for_each_case(F&& f) {
  for (Layout layout : kLayouts)
    for (int64_t window : {1, 2, 7, 8, 9, 20, 64})
      for (const auto& cu_seqlens : packed_batches()) {
        SCOPED_TRACE(fmt::format("{}, window {}, cu_seqlens {}", layout_name(layout), window,
                                 fmt::join(cu_seqlens, ",")));
        f(layout, window, cu_seqlens);
      }
}

AttentionResults run(Context& ctx, const AttentionBatch& batch, Layout layout) {
  return testing::run(ctx, batch, *make_halo(world(), kKernel), plan_of(batch, layout, world()),
                      world());
}

void expect_equal(DType dtype, double forward_bound, double gradient_bound) {
  Context ctx;
  for_each_case([&](Layout layout, int64_t window, const std::vector<int64_t>& cu_seqlens) {
    for (AttentionHeads heads : kHeads) {
      const AttentionBatch batch = random_batch(ctx, cu_seqlens, heads, dtype, window_of(window));
      expect_equal_to_definition(ctx, batch, run(ctx, batch, layout), forward_bound,
                                 gradient_bound);
    }
  });
}

TEST(Halo, EqualsTheWholeBatchInFp32) {
  expect_equal(DType::kF32, 1e-6, 1e-5);
}

TEST(Halo, EqualsTheWholeBatchInFp64) {
  expect_equal(DType::kF64, 1e-13, 1e-13);
}

// o is rounded once (2^-9 at most); the gradients once more, and o enters them through delta.
TEST(Halo, EqualsTheWholeBatchInBf16WithinItsRounding) {
  expect_equal(DType::kBF16, 2.5e-3, 6e-3);
}

// Every mask that a window can be joined with, and a sink logit.
std::vector<AttentionOptions> masks(Context& ctx, int64_t num_heads) {
  std::vector<AttentionOptions> all;
  for (int64_t window : {1, 5, 9, 20}) {
    all.push_back({.scale = 0.4, .window = window, .num_sink_tokens = 3});
    all.push_back({.scale = 0.4, .window = window, .anchor = true});
    all.push_back({.scale = 0.4, .window = window, .causal = false});
    all.push_back({.scale = 0.4, .window = window, .num_sink_tokens = 1, .anchor = true});
    all.push_back({.scale = 0.4,
                   .window = window,
                   .causal = false,
                   .num_sink_tokens = 2,
                   .anchor = true,
                   .sink_logit_H = testing::random_tensor(ctx, {num_heads}, 5)});
  }
  return all;
}

TEST(Halo, EqualsTheWholeBatchForEveryMask) {
  Context ctx;
  for (Layout layout : kLayouts)
    for (const AttentionOptions& options : masks(ctx, 6))
      for (const auto& cu_seqlens : packed_batches()) {
        SCOPED_TRACE(fmt::format("{}, {}, cu_seqlens {}", layout_name(layout), mask_text(options),
                                 fmt::join(cu_seqlens, ",")));
        const AttentionBatch batch = random_batch(ctx, cu_seqlens, {6, 3}, DType::kF64, options);
        expect_equal_to_definition(ctx, batch, run(ctx, batch, layout), 1e-13, 1e-13);
      }
}

TEST(Halo, TwoRunsGiveTheSameBits) {
  Context ctx;
  for_each_case([&](Layout layout, int64_t window, const std::vector<int64_t>& cu_seqlens) {
    const AttentionBatch batch =
        random_batch(ctx, cu_seqlens, {4, 2}, DType::kF32, window_of(window));
    EXPECT_TRUE(same_bits(run(ctx, batch, layout), run(ctx, batch, layout)));
  });
}

TEST(Halo, ATokenReachesOnlyTheWindowAfterItInItsOwnDocument) {
  Context ctx;
  for (Layout layout : kLayouts)
    for (int64_t window : {1, 3, 11}) {
      SCOPED_TRACE(fmt::format("{}, window {}", layout_name(layout), window));
      expect_reach_of_tokens(ctx, *make_halo(world(), kKernel), layout, world(), window_of(window));
    }
}

// Keys of one rank that queries of another see, from the definition of the window.
int64_t num_seen(const SequencePlan& plan, int query_rank, int key_rank, int64_t window) {
  std::set<int64_t> keys;
  for (const Segment& q : plan.segments(query_rank))
    for (const Segment& k : plan.segments(key_rank))
      for (int64_t i = 0; i < q.length && q.document == k.document; ++i)
        for (int64_t j = 0; j < k.length; ++j) {
          const int64_t distance = q.position + i - k.position - j;
          if (distance >= 0 && distance < window) keys.insert(k.slot + j);
        }
  return static_cast<int64_t>(keys.size());
}

TEST(Halo, SendsTheBytesOfItsFormulaInOneBatchEachWay) {
  Context ctx;
  for_each_case([&](Layout layout, int64_t window, const std::vector<int64_t>& cu_seqlens) {
    const AttentionBatch batch =
        random_batch(ctx, cu_seqlens, {6, 3}, DType::kBF16, window_of(window));
    const SequencePlan plan = plan_of(batch, layout, world());
    constexpr int64_t kWidth = 3 * (6 + 10), e = 2, g = 4;
    int64_t sent = 0, fetched = 0;
    for (int p = 0; p < world().size(); ++p) {
      if (p == world().rank()) continue;
      sent += num_seen(plan, p, world().rank(), window);
      fetched += num_seen(plan, world().rank(), p, window);
    }
    world().reset_stats();
    run(ctx, batch, layout);
    const CommStats stats = world().stats();
    EXPECT_EQ(stats.sent_bytes("halo.fwd"), sent * kWidth * e);
    EXPECT_EQ(stats.sent_bytes("halo.bwd"), sent * kWidth * e + fetched * kWidth * g);
    EXPECT_EQ(stats.by_label.at("halo.fwd").num_calls, 1);
    EXPECT_EQ(stats.by_label.at("halo.bwd").num_calls, 2);
  });
}

TEST(Halo, SendsTheWindowAndNothingElseForOneDocument) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank(), s = 8, width = 2 * (6 + 10) * 4;
  auto rows_sent = [&](Layout layout, int64_t window) {
    const AttentionBatch batch =
        random_batch(ctx, {0, s * P}, {4, 2}, DType::kF32, window_of(window));
    world().reset_stats();
    run(ctx, batch, layout);
    return world().stats().sent_bytes("halo.fwd") / width;
  };
  for (int64_t window : {1, 2, 5, 9})
    EXPECT_EQ(rows_sent(Layout::kContiguous, window), r + 1 < P ? window - 1 : 0);
  // Two slots of 4 tokens: the first slot is before that of the next rank, the second before that
  // of the rank before. The two slots of the last rank are neighbours.
  for (int64_t window : {1, 2, 5})
    EXPECT_EQ(rows_sent(Layout::kZigzag, window),
              ((r + 1 < P ? 1 : 0) + (r > 0 ? 1 : 0)) * (window - 1));
  // Over several shards: all rows for the next two ranks, and the last three for the one after.
  EXPECT_EQ(rows_sent(Layout::kContiguous, 2 * s + 4),
            (r + 1 < P ? s : 0) + (r + 2 < P ? s : 0) + (r + 3 < P ? 3 : 0));
}

TEST(Halo, FetchesSinkTokensTheAnchorAndBothSides) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank(), s = 8, width = 2 * (6 + 10) * 4;
  auto rows_sent = [&](const AttentionOptions& options) {
    const AttentionBatch batch =
        random_batch(ctx, {0, s * P - 3, s * P}, {4, 2}, DType::kF32, options);
    world().reset_stats();
    run(ctx, batch, Layout::kContiguous);
    return world().stats().sent_bytes("halo.fwd") / width;
  };
  // The second document is on the last rank alone, with tokens of the first. Two sink tokens go to
  // all ranks, the anchor too, and the two rows before and after a border to the neighbours.
  const int64_t window = r + 1 < P ? 2 : 0, back = r > 0 ? 2 : 0;
  const int64_t to_all = r == 0 ? P - 1 : 0;
  EXPECT_EQ(rows_sent({.window = 3}), window);
  EXPECT_EQ(rows_sent({.window = 3, .num_sink_tokens = 2}), window + 2 * to_all);
  EXPECT_EQ(rows_sent({.window = 3, .anchor = true}), window + to_all);
  EXPECT_EQ(rows_sent({.window = 3, .causal = false}), window + back);
}

TEST(Halo, ComputesOnlyQueriesThatReachTheHaloASecondTime) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank(), s = 16, window = 5;
  for (Layout layout : kLayouts) {
    const AttentionBatch batch =
        random_batch(ctx, {0, s * P}, {2, 1}, DType::kF32, window_of(window));
    const NotingSoftmax kernel(kKernel, [](Pass, const SoftmaxBlockInput& input, const BlockMask&) {
      return input.q_THD.dim(0);
    });
    testing::run(ctx, batch, *make_halo(world(), kernel), plan_of(batch, layout, world()), world());
    std::vector<int64_t> reaching;
    if (r > 0) reaching.push_back(window - 1);
    if (layout == Layout::kZigzag && r + 1 < P) reaching.push_back(window - 1);
    std::vector<int64_t> forward = {s}, backward = {s / 2};
    for (std::vector<int64_t>* rows : {&forward, &backward})
      rows->insert(rows->end(), reaching.begin(), reaching.end());
    backward.push_back(s - s / 2);
    EXPECT_EQ(kernel.forward_notes, forward);
    EXPECT_EQ(kernel.backward_notes, backward);
  }
}

TEST(Halo, PeakMemoryIsThatOfTheWindow) {
  const int64_t s = 64, window = 9, H = 4, K = 2, D = 6, V = 10, N = window - 1, M = window - 1;
  const auto plan = SequencePlan::make({0, s * world().size()}, Layout::kContiguous, world().size(),
                                       world().rank());
  const PeakBytes peaks = peaks_of(*make_halo(world(), kKernel), plan, {H, K}, window_of(window));
  EXPECT_LE(peaks.forward, bytes_with_rounding(N * K * (D + V) + (s + M) * H * (V + 1)));
  EXPECT_LE(peaks.backward,
            bytes_with_rounding(3 * N * K * (D + V) + s * (H * (D + 1) + K * (D + V))));
}

TEST(Halo, RefusesALayerWithoutAWindow) {
  Context ctx;
  const AttentionBatch batch = random_batch(ctx, {0, 24}, {4, 2}, DType::kF32, window_of(0));
  testing::expect_error(ErrorCode::kConfig, {"halo", "sliding window", "gather_kv", "ring"},
                        [&] { run(ctx, batch, Layout::kContiguous); });
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
