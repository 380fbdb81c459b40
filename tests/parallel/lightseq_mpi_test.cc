// Load-balanced causal attention against the definition of attention on the whole batch.
// ranks: 1 2 3 4 5 8
#include "parallel/lightseq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

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
using testing::mask_text;
using testing::NaiveSoftmax;
using testing::NotingSoftmax;
using testing::packed_batches;
using testing::Pass;
using testing::PeakBytes;
using testing::peaks_of;
using testing::random_batch;
using testing::same_bits;
using testing::world;

const NaiveSoftmax kKernel;

constexpr AttentionHeads kHeads[] = {{8, 1}, {8, 2}, {6, 3}, {5, 5}};

SequencePlan plan_of(const AttentionBatch& batch) {
  return testing::plan_of(batch, Layout::kContiguous, world());
}

AttentionResults run(Context& ctx, const AttentionBatch& batch,
                     const SoftmaxBlock& kernel = kKernel) {
  return testing::run(ctx, batch, *make_lightseq(world(), kernel), plan_of(batch), world());
}

// Calls f(window, cu_seqlens) for every case, with a trace for failures.
template <class F>
void for_each_case(F&& f) {
  for (int64_t window : {0, 1, 5, 24})
    for (const auto& cu_seqlens : packed_batches()) {
      SCOPED_TRACE(fmt::format("window {}, cu_seqlens {}", window, fmt::join(cu_seqlens, ",")));
      f(window, cu_seqlens);
    }
}

void expect_equal(DType dtype, double forward_bound, double gradient_bound) {
  Context ctx;
  for_each_case([&](int64_t window, const std::vector<int64_t>& cu_seqlens) {
    for (AttentionHeads heads : kHeads) {
      const AttentionBatch batch =
          random_batch(ctx, cu_seqlens, heads, dtype, {.scale = 0.4, .window = window});
      expect_equal_to_definition(ctx, batch, run(ctx, batch), forward_bound, gradient_bound);
    }
  });
}

TEST(Lightseq, EqualsTheWholeBatchInFp32) {
  expect_equal(DType::kF32, 1e-6, 1e-5);
}

TEST(Lightseq, EqualsTheWholeBatchInFp64) {
  expect_equal(DType::kF64, 1e-13, 1e-13);
}

// o is rounded once (2^-9 at most); the gradients once more, and o enters them through delta.
TEST(Lightseq, EqualsTheWholeBatchInBf16WithinItsRounding) {
  expect_equal(DType::kBF16, 2.5e-3, 6e-3);
}

TEST(Lightseq, EqualsTheWholeBatchWithSinksAndAnchor) {
  Context ctx;
  const Tensor sink_logit_H = testing::random_tensor(ctx, {6}, 5);
  for (const AttentionOptions& options :
       {AttentionOptions{.scale = 0.4, .window = 5, .num_sink_tokens = 3},
        AttentionOptions{.scale = 0.4, .anchor = true},
        AttentionOptions{.scale = 0.4, .sink_logit_H = sink_logit_H},
        AttentionOptions{.scale = 0.4,
        .window = 9,
        .num_sink_tokens = 1,
        .anchor = true,
        .sink_logit_H = sink_logit_H}})
    for (const auto& cu_seqlens : packed_batches()) {
      SCOPED_TRACE(
          fmt::format("{}, cu_seqlens {}", mask_text(options), fmt::join(cu_seqlens, ",")));
      const AttentionBatch batch = random_batch(ctx, cu_seqlens, {6, 3}, DType::kF64, options);
      expect_equal_to_definition(ctx, batch, run(ctx, batch), 1e-13, 1e-13);
    }
}

TEST(Lightseq, TwoRunsGiveTheSameBits) {
  Context ctx;
  for_each_case([&](int64_t window, const std::vector<int64_t>& cu_seqlens) {
    const AttentionBatch batch =
        random_batch(ctx, cu_seqlens, {6, 3}, DType::kF32, {.scale = 0.4, .window = window});
    EXPECT_TRUE(same_bits(run(ctx, batch), run(ctx, batch)));
  });
}

TEST(Lightseq, ATokenReachesOnlyLaterPositionsOfItsOwnDocument) {
  Context ctx;
  for (int64_t window : {0, 11})
    testing::expect_reach_of_tokens(ctx, *make_lightseq(world(), kKernel), Layout::kContiguous,
                                    world(), {.scale = 0.4, .window = window});
}

// Rows of one rank's queries and of another's keys that meet, as the smallest ranges.
struct Meeting {
  RowRange queries, keys;
};

// From the definition of the mask.
Meeting meeting_of(const SequencePlan& plan, int query_rank, int key_rank, int64_t window) {
  Meeting meeting;
  for (const Segment& q : plan.segments(query_rank))
    for (const Segment& k : plan.segments(key_rank))
      for (int64_t i = 0; i < q.length && q.document == k.document; ++i)
        for (int64_t j = 0; j < k.length; ++j) {
          const int64_t distance = q.position + i - k.position - j;
          if (distance < 0 || (window > 0 && distance >= window)) continue;
          meeting.queries = cover(meeting.queries, {q.slot + i, 1});
          meeting.keys = cover(meeting.keys, {k.slot + j, 1});
        }
  return meeting;
}

// By the rule of the header for each pair of ranks, and not by the table.
TEST(Lightseq, SendsTheBytesOfItsFormula) {
  Context ctx;
  for_each_case([&](int64_t window, const std::vector<int64_t>& cu_seqlens) {
    constexpr int64_t H = 6, K = 3, D = 6, V = 10, e = 2, g = 4;
    const AttentionBatch batch =
        random_batch(ctx, cu_seqlens, {H, K}, DType::kBF16, {.scale = 0.4, .window = window});
    const SequencePlan plan = plan_of(batch);
    const int P = world().size(), r = world().rank();
    int64_t forward = 0, backward = 0;
    for (int i = 0; i < P; ++i)
      for (int j = 0; j < i; ++j) {
        const Meeting meeting = meeting_of(plan, i, j, window);
        // Queries that the rank of the keys takes over.
        int64_t helped = 2 * (i - j) > P ? meeting.queries.count : 0;
        if (2 * (i - j) == P) helped = meeting.queries.count / 2;
        const bool keys_travel = helped < meeting.queries.count;
        const int64_t keys = keys_travel ? meeting.keys.count : 0;
        if (j == r) {
          forward += keys * K * (D + V) * e + helped * H * (V + 1) * g;
          backward += keys * K * (D + V) * e + helped * H * D * g;
        }
        if (i == r) {
          forward += helped * H * D * e;
          backward += helped * H * ((D + V) * e + 2 * g) + keys * K * (D + V) * g;
        }
      }
    world().reset_stats();
    run(ctx, batch);
    EXPECT_EQ(world().stats().sent_bytes("lightseq.fwd"), forward);
    EXPECT_EQ(world().stats().sent_bytes("lightseq.bwd"), backward);
  });
}

TEST(Lightseq, SendsKeysOrQueriesAtEachStepForOneDocument) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank(), s = 4, H = 8, K = 2, D = 6, V = 10;
  const AttentionBatch batch = random_batch(ctx, {0, s * P}, {H, K}, DType::kBF16);
  world().reset_stats();
  run(ctx, batch);
  int64_t forward = 0;
  for (int64_t t = 1; t <= P / 2; ++t) {
    const int64_t queries = 2 * t == P ? s / 2 : s;
    forward += r + t < P ? s * K * (D + V) * 2 : queries * H * D * 2;
    if (r < t) forward += queries * H * (V + 1) * 4;  // what it computed for another rank
  }
  EXPECT_EQ(world().stats().sent_bytes("lightseq.fwd"), forward);
}

// The scores of a block.
int64_t count_scores(Pass, const SoftmaxBlockInput&, const BlockMask& mask) {
  int64_t scores = 0;
  for (const MaskPiece& piece : mask.pieces)
    for (int64_t i = 0; i < piece.q_length; ++i)
      scores += std::clamp<int64_t>(piece.q_position + i - piece.k_position + 1, 0, piece.k_length);
  return scores;
}

int64_t sum(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

TEST(Lightseq, EveryRankComputesTheSameNumberOfScoresOfOneDocument) {
  Context ctx;
  const int64_t P = world().size();
  for (int64_t s : {8, 9}) {
    const AttentionBatch batch = random_batch(ctx, {0, s * P}, {2, 1}, DType::kF32);
    const NotingSoftmax kernel(kKernel, count_scores);
    run(ctx, batch, kernel);
    // The halves of an odd number of queries differ by one, which sees s keys.
    int64_t twice = s * (s + 1) + (P - 1) * s * s;
    if (P % 2 == 0 && s % 2 == 1) twice += world().rank() < P / 2 ? -s : s;
    EXPECT_EQ(2 * sum(kernel.forward_notes), twice);
    EXPECT_EQ(2 * sum(kernel.backward_notes), twice);
    EXPECT_EQ(std::ssize(kernel.forward_notes), lightseq_steps(world().size()));
    EXPECT_EQ(std::ssize(kernel.backward_notes), lightseq_steps(world().size()));
  }
}

TEST(Lightseq, ScoresPerRankAreCloseToTheMeanForUnevenShards) {
  Context ctx;
  const int64_t P = world().size(), s = 30, tokens = s * P + P / 2;
  const AttentionBatch batch = random_batch(ctx, {0, tokens}, {1, 1}, DType::kF32);
  const NotingSoftmax kernel(kKernel, count_scores);
  run(ctx, batch, kernel);
  const double mean = static_cast<double>(tokens * (tokens + 1) / 2) / static_cast<double>(P);
  for (const auto& counts : {kernel.forward_notes, kernel.backward_notes})
    EXPECT_NEAR(static_cast<double>(sum(counts)) / mean, 1, 3.0 / static_cast<double>(s));
}

TEST(Lightseq, ComputesEachScoreOnceAndNoBlockThatTheMaskHides) {
  Context ctx;
  for (const auto& cu_seqlens : packed_batches()) {
    const AttentionBatch batch = random_batch(ctx, cu_seqlens, {2, 1}, DType::kF32);
    const SequencePlan plan = plan_of(batch);
    const NotingSoftmax kernel(kKernel, count_scores);
    run(ctx, batch, kernel);
    int64_t scores = 0;
    for (size_t d = 0; d + 1 < cu_seqlens.size(); ++d) {
      const int64_t length = cu_seqlens[d + 1] - cu_seqlens[d];
      scores += length * (length + 1) / 2;
    }
    const int P = world().size(), r = world().rank();
    int64_t blocks = 1;  // its own
    for (int i = 0; i < P; ++i)
      for (int j = 0; j < i; ++j) {
        const int64_t rows = meeting_of(plan, i, j, 0).queries.count;
        int64_t helped = 2 * (i - j) > P ? rows : 0;
        if (2 * (i - j) == P) helped = rows / 2;
        if (j == r && helped > 0) ++blocks;
        if (i == r && helped < rows) ++blocks;
      }
    EXPECT_EQ(std::ssize(kernel.forward_notes), blocks);
    EXPECT_EQ(std::ssize(kernel.backward_notes), blocks);
    EXPECT_EQ(world().all_reduce_value("test", sum(kernel.forward_notes), ReduceOp::kSum), scores);
  }
}

TEST(Lightseq, TakesHalfOfTheRanksInSteps) {
  Context ctx;
  const int64_t P = world().size(), s = 4;
  world().reset_stats();
  run(ctx, random_batch(ctx, {0, s * P}, {2, 1}, DType::kF32));
  // One batch of messages with each step, and one for the last results.
  EXPECT_EQ(world().stats().by_label.at("lightseq.fwd").num_calls, P / 2 + 2);
  EXPECT_EQ(world().stats().by_label.at("lightseq.bwd").num_calls, P / 2 + 2);
  // A window that reaches the next rank only needs one step beside the first.
  world().reset_stats();
  run(ctx, random_batch(ctx, {0, s * P}, {2, 1}, DType::kF32, {.scale = 0.4, .window = 3}));
  EXPECT_EQ(world().stats().by_label.at("lightseq.fwd").num_calls, P == 1 ? 2 : 3);
}

// Every pair of a query and a key that the mask shows is in the task of one rank and step.
TEST(LightseqTask, TheTableHasEveryPairOnce) {
  for (int P = 1; P <= 9; ++P)
    for (int64_t tokens : {4 * P, 5 * P + P / 2, P / 2}) {
      const auto plan = SequencePlan::make({0, tokens}, Layout::kContiguous, P, 0);
      const Visibility visibility(plan);
      std::vector<int64_t> first_token = {0};
      for (int rank = 0; rank < P; ++rank)
        first_token.push_back(first_token.back() + plan.num_tokens(rank));
      std::vector<int> times(static_cast<size_t>(tokens * tokens), 0);
      for (int step = 0; step < lightseq_steps(P); ++step)
        for (int rank = 0; rank < P; ++rank) {
          const LightseqTask task = lightseq_task(plan, visibility, step, rank);
          EXPECT_TRUE(rank == task.query_rank || rank == task.key_rank);
          for (int64_t q = task.queries.begin; q < task.queries.end(); ++q)
            for (int64_t k = task.keys.begin; k < task.keys.end(); ++k) {
              const int64_t query = first_token[static_cast<size_t>(task.query_rank)] + q;
              const int64_t key = first_token[static_cast<size_t>(task.key_rank)] + k;
              if (key <= query) ++times[static_cast<size_t>(query * tokens + key)];
            }
        }
      for (int64_t query = 0; query < tokens; ++query)
        for (int64_t key = 0; key <= query; ++key)
          EXPECT_EQ(times[static_cast<size_t>(query * tokens + key)], 1)
              << P << " ranks, query " << query << ", key " << key;
    }
}

TEST(Lightseq, PeakMemoryDependsOnTheLocalTokensOnly) {
  const int64_t s = 32, H = 4, K = 2, D = 6, V = 10;
  const auto plan = SequencePlan::make({0, s * world().size()}, Layout::kContiguous, world().size(),
                                       world().rank());
  const PeakBytes peaks = peaks_of(*make_lightseq(world(), kKernel), plan, {H, K});
  EXPECT_LE(peaks.forward,
            bytes_with_rounding(2 * s * std::max(K * (D + V), H * D) + 4 * s * H * (V + 1)));
  EXPECT_LE(peaks.backward, bytes_with_rounding(2 * s * std::max(K * (D + V), H * (D + V + 2)) +
                                                s * (H * (1 + D) + K * (D + V)) +
                                                3 * s * std::max(K * (D + V), H * D)));
}

TEST(Lightseq, RefusesTheZigzagLayout) {
  Context ctx;
  const AttentionBatch batch = random_batch(ctx, {0, 24}, {4, 2}, DType::kF32);
  testing::expect_error(ErrorCode::kConfig, {"lightseq", "`contiguous`", "`zigzag`", "ring"}, [&] {
    testing::run(ctx, batch, *make_lightseq(world(), kKernel),
                 testing::plan_of(batch, Layout::kZigzag, world()), world());
  });
}

TEST(Lightseq, RefusesBothDirections) {
  Context ctx;
  const AttentionBatch batch =
      random_batch(ctx, {0, 24}, {4, 2}, DType::kF32, {.scale = 0.4, .causal = false});
  testing::expect_error(ErrorCode::kConfig, {"lightseq", "causal", "ring"},
                        [&] { run(ctx, batch); });
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
