#include "parallel/sequence_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include "runtime/random.h"
#include "tests/support/whole_batch.h"

namespace longship {
namespace {

std::vector<int64_t> cu_seqlens_of(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> cu_seqlens = {0};
  for (int64_t length : lengths) cu_seqlens.push_back(cu_seqlens.back() + length);
  return cu_seqlens;
}

// Batches with documents of every kind of length: none, empty, of one token, and longer.
std::vector<std::vector<int64_t>> batches() {
  std::vector<std::vector<int64_t>> lengths = {
      {},        {0},          {1},          {0, 0, 0},    {2},     {7},
      {16},      {61},         {1, 1, 1, 1}, {0, 5, 0, 3}, {3, 13}, {1, 40, 1, 0, 22, 1},
      {0, 9, 0}, {17, 0, 0, 1}};
  for (uint64_t seed = 0; seed < 12; ++seed) {
    std::vector<int64_t> random;
    for (uint64_t d = 0; d < 3 + 2 * seed; ++d)
      random.push_back(static_cast<int64_t>(uniform_index(seed, 5, d, d % 3 == 0 ? 3 : 20)));
    lengths.push_back(random);
  }
  std::vector<std::vector<int64_t>> result;
  for (const auto& batch : lengths) result.push_back(cu_seqlens_of(batch));
  return result;
}

// The global tokens of a rank in slot order, straight from the definition of the layouts.
std::vector<int64_t> expected_tokens(int64_t total, Layout layout, int num_ranks, int rank) {
  std::vector<int64_t> tokens;
  auto add_chunk = [&](int64_t chunk, int64_t count) {
    for (int64_t t = total * chunk / count; t < total * (chunk + 1) / count; ++t)
      tokens.push_back(t);
  };
  if (layout == Layout::kContiguous) {
    add_chunk(rank, num_ranks);
  } else {
    add_chunk(rank, 2 * num_ranks);
    add_chunk(2 * num_ranks - 1 - rank, 2 * num_ranks);
  }
  return tokens;
}

// Calls f(cu_seqlens, layout, number of ranks) for every case.
template <class F>
void for_each_case(F&& f) {
  for (const auto& cu_seqlens : batches())
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (int num_ranks : {1, 2, 3, 4, 5, 8, 13}) {
        SCOPED_TRACE(fmt::format("cu_seqlens {} {} over {} ranks", fmt::join(cu_seqlens, ","),
                                 layout_name(layout), num_ranks));
        f(cu_seqlens, layout, num_ranks);
      }
}

TEST(SequencePlan, SegmentsHoldExactlyTheTokensOfTheLayoutInSlotOrder) {
  for_each_case([](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      const SequencePlan plan = SequencePlan::make(cu_seqlens, layout, num_ranks, rank);
      std::vector<int64_t> found;
      for (const Segment& segment : plan.local_segments()) {
        ASSERT_GT(segment.length, 0);
        EXPECT_EQ(segment.slot, static_cast<int64_t>(found.size()));
        for (int64_t i = 0; i < segment.length; ++i) found.push_back(segment.global_begin + i);
      }
      EXPECT_EQ(found, expected_tokens(cu_seqlens.back(), layout, num_ranks, rank));
      EXPECT_EQ(plan.num_local_tokens(), static_cast<int64_t>(found.size()));
    }
  });
}

TEST(SequencePlan, SegmentsStayInOneDocumentAndAreAsLongAsPossible) {
  for_each_case([](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      const SequencePlan plan = SequencePlan::make(cu_seqlens, layout, num_ranks, rank);
      const Segment* last = nullptr;
      for (const Segment& segment : plan.local_segments()) {
        ASSERT_LT(segment.document, plan.num_documents());
        const int64_t begin = cu_seqlens[static_cast<size_t>(segment.document)];
        const int64_t end = cu_seqlens[static_cast<size_t>(segment.document) + 1];
        EXPECT_EQ(segment.position, segment.global_begin - begin);
        EXPECT_GE(segment.global_begin, begin);
        EXPECT_LE(segment.global_begin + segment.length, end);
        if (last != nullptr) {
          EXPECT_GE(segment.global_begin, last->global_begin + last->length);
          EXPECT_FALSE(segment.document == last->document &&
                       segment.global_begin == last->global_begin + last->length);
        }
        last = &segment;
      }
    }
  });
}

TEST(SequencePlan, EveryRankComputesTheSameTable) {
  for_each_case([](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    const SequencePlan first = SequencePlan::make(cu_seqlens, layout, num_ranks, 0);
    EXPECT_EQ(
        std::accumulate(first.tokens_per_rank().begin(), first.tokens_per_rank().end(), int64_t{0}),
        cu_seqlens.back());
    for (int rank = 1; rank < num_ranks; ++rank) {
      const SequencePlan plan = SequencePlan::make(cu_seqlens, layout, num_ranks, rank);
      EXPECT_EQ(plan.rank(), rank);
      EXPECT_EQ(plan.tokens_per_rank(), first.tokens_per_rank());
      for (int peer = 0; peer < num_ranks; ++peer)
        EXPECT_TRUE(std::ranges::equal(plan.segments(peer), first.segments(peer)));
    }
  });
}

TEST(SequencePlan, GatheredSegmentsPointAtTheRowsOfTheConcatenatedShards) {
  for_each_case([](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    const SequencePlan plan = SequencePlan::make(cu_seqlens, layout, num_ranks, 0);
    std::vector<int64_t> token_of_row;
    for (int rank = 0; rank < num_ranks; ++rank)
      for (int64_t token : expected_tokens(cu_seqlens.back(), layout, num_ranks, rank))
        token_of_row.push_back(token);
    int64_t next_token = 0;
    for (const Segment& segment : testing::gathered_segments(plan)) {
      EXPECT_EQ(segment.global_begin, next_token);
      EXPECT_EQ(segment.position,
                segment.global_begin - cu_seqlens[static_cast<size_t>(segment.document)]);
      for (int64_t i = 0; i < segment.length; ++i)
        EXPECT_EQ(token_of_row[static_cast<size_t>(segment.slot + i)], segment.global_begin + i);
      next_token += segment.length;
    }
    EXPECT_EQ(next_token, cu_seqlens.back());
    if (layout == Layout::kContiguous) {
      std::set<int64_t> documents;
      for (const Segment& segment : testing::gathered_segments(plan))
        EXPECT_TRUE(documents.insert(segment.document).second) << "a document in two pieces";
    }
  });
}

TEST(SequencePlan, CoarsenedHoldsTheTokensOfNeighboursInBatchOrder) {
  for_each_case([](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    for (int group_size = 1; group_size <= num_ranks; ++group_size) {
      if (num_ranks % group_size != 0) continue;
      const int last = num_ranks - 1;
      const SequencePlan plan =
          SequencePlan::make(cu_seqlens, layout, num_ranks, last).coarsened(group_size);
      ASSERT_EQ(plan.num_ranks(), num_ranks / group_size);
      EXPECT_EQ(plan.rank(), last / group_size);
      EXPECT_EQ(plan.cu_seqlens(), cu_seqlens);
      for (int group = 0; group < plan.num_ranks(); ++group) {
        std::vector<int64_t> expected, found;
        for (int rank = group * group_size; rank < (group + 1) * group_size; ++rank)
          for (int64_t token : expected_tokens(cu_seqlens.back(), layout, num_ranks, rank))
            expected.push_back(token);
        std::ranges::sort(expected);
        const Segment* previous = nullptr;
        for (const Segment& segment : plan.segments(group)) {
          EXPECT_EQ(segment.slot, static_cast<int64_t>(found.size()));
          const auto document = static_cast<size_t>(segment.document);
          EXPECT_EQ(segment.position, segment.global_begin - cu_seqlens[document]);
          EXPECT_LE(segment.global_begin + segment.length, cu_seqlens[document + 1]);
          if (previous != nullptr && previous->document == segment.document) {
            EXPECT_NE(previous->global_begin + previous->length, segment.global_begin)
                << "a piece of a document in two segments";
          }
          for (int64_t i = 0; i < segment.length; ++i) found.push_back(segment.global_begin + i);
          previous = &segment;
        }
        EXPECT_EQ(found, expected);
        EXPECT_EQ(plan.num_tokens(group), static_cast<int64_t>(expected.size()));
      }
    }
  });
  // Whatever the layout, a document among all ranks is in one piece.
  EXPECT_EQ(SequencePlan::make({0, 5, 64}, Layout::kZigzag, 4, 0).coarsened(4).segments(0).size(),
            2u);
  EXPECT_THROW(SequencePlan::make({0, 8}, Layout::kZigzag, 4, 0).coarsened(3), Error);
  EXPECT_THROW(SequencePlan::make({0, 8}, Layout::kZigzag, 4, 0).coarsened(0), Error);
  EXPECT_THROW(SequencePlan::make({0, 8}, Layout::kZigzag, 4, 0).rows_in_group(3), Error);
}

TEST(SequencePlan, RowsInAGroupAreThoseOfTheCoarsenedPlan) {
  for_each_case([](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    for (int group_size = 1; group_size <= num_ranks; ++group_size) {
      if (num_ranks % group_size != 0) continue;
      const int last = num_ranks - 1, first_of_group = num_ranks - group_size;
      const SequencePlan plan = SequencePlan::make(cu_seqlens, layout, num_ranks, last);
      std::vector<int64_t> token_of_row;
      for (const Segment& segment : plan.coarsened(group_size).local_segments())
        for (int64_t i = 0; i < segment.length; ++i)
          token_of_row.push_back(segment.global_begin + i);
      const auto rows = plan.rows_in_group(group_size);
      EXPECT_EQ(rows->num_rows, static_cast<int64_t>(token_of_row.size()));
      ASSERT_EQ(std::ssize(rows->of_rank), group_size);
      for (int rank = 0; rank < group_size; ++rank) {
        std::vector<int64_t> found;
        const auto& runs = rows->of_rank[static_cast<size_t>(rank)];
        EXPECT_LE(runs.size(), layout == Layout::kZigzag ? 2u : 1u);
        for (const GroupRows::Run& run : runs) {
          EXPECT_EQ(run.slot, static_cast<int64_t>(found.size()));
          for (int64_t i = 0; i < run.length; ++i)
            found.push_back(token_of_row[static_cast<size_t>(run.row + i)]);
        }
        EXPECT_EQ(found,
                  expected_tokens(cu_seqlens.back(), layout, num_ranks, first_of_group + rank));
      }
    }
  });
}

TEST(SequencePlan, PositionsRestartWithEachDocument) {
  Context ctx;
  for_each_case([&](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    std::vector<int64_t> position;
    for (size_t d = 0; d + 1 < cu_seqlens.size(); ++d)
      for (int64_t i = 0; i < cu_seqlens[d + 1] - cu_seqlens[d]; ++i) position.push_back(i);
    for (int rank = 0; rank < num_ranks; ++rank) {
      const SequencePlan plan = SequencePlan::make(cu_seqlens, layout, num_ranks, rank);
      const Tensor positions_T = plan.positions(ctx);
      const auto tokens = expected_tokens(cu_seqlens.back(), layout, num_ranks, rank);
      ASSERT_EQ(positions_T.shape(), Shape{static_cast<int64_t>(tokens.size())});
      for (size_t slot = 0; slot < tokens.size(); ++slot)
        EXPECT_EQ(positions_T.data<int64_t>()[slot], position[static_cast<size_t>(tokens[slot])]);
    }
  });
}

TEST(SequencePlan, UnshardPutsTheShardsBackInBatchOrder) {
  Context ctx;
  for_each_case([&](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    const int64_t total = cu_seqlens.back();
    Tensor whole = ctx.empty({total, 3}, DType::kI32);
    std::iota(whole.data<int32_t>(), whole.data<int32_t>() + whole.numel(), 1);
    Tensor by_rank = ctx.empty({total, 3}, DType::kI32);
    int64_t row = 0;
    for (int rank = 0; rank < num_ranks; ++rank) {
      const SequencePlan plan = SequencePlan::make(cu_seqlens, layout, num_ranks, rank);
      const Tensor local = plan.shard(ctx, whole);
      const auto tokens = expected_tokens(total, layout, num_ranks, rank);
      for (size_t slot = 0; slot < tokens.size(); ++slot)
        EXPECT_EQ(local.data<int32_t>()[3 * slot + 2], 3 * tokens[slot] + 3);
      by_rank.slice(0, row, local.dim(0)).copy_from(local);
      row += local.dim(0);
    }
    const Tensor back = testing::unshard(
        ctx, SequencePlan::make(cu_seqlens, layout, num_ranks, num_ranks - 1), by_rank);
    for (int64_t i = 0; i < whole.numel(); ++i)
      ASSERT_EQ(back.data<int32_t>()[i], whole.data<int32_t>()[i]);
  });
}

TEST(SequencePlan, ZigzagGivesEveryRankTheSameCausalWork) {
  const int num_ranks = 8;
  const SequencePlan plan = SequencePlan::make({0, 1600}, Layout::kZigzag, num_ranks, 0);
  std::set<int64_t> pairs_per_rank;
  for (int rank = 0; rank < num_ranks; ++rank) {
    int64_t pairs = 0;
    for (const Segment& segment : plan.segments(rank))
      for (int64_t i = 0; i < segment.length; ++i) pairs += segment.position + i + 1;
    pairs_per_rank.insert(pairs);
  }
  EXPECT_EQ(pairs_per_rank.size(), 1u);
}

TEST(SequencePlan, LongestBatchDoesNotOverflow) {
  const int64_t total = std::numeric_limits<int64_t>::max();
  const SequencePlan plan = SequencePlan::make({0, total}, Layout::kZigzag, 1024, 1000);
  int64_t sum = 0;
  for (int64_t tokens : plan.tokens_per_rank()) {
    EXPECT_LE(std::abs(tokens - total / 1024), 2);
    sum += tokens;
  }
  EXPECT_EQ(sum, total);
}

TEST(SequencePlan, LocalPlanHoldsEverythingInOrder) {
  const SequencePlan plan = SequencePlan::local({0, 3, 3, 10});
  ASSERT_EQ(plan.local_segments().size(), 2u);
  EXPECT_EQ(plan.local_segments()[0], (Segment{0, 0, 0, 3, 0}));
  EXPECT_EQ(plan.local_segments()[1], (Segment{2, 0, 3, 7, 3}));
}

TEST(SequencePlan, BadInputIsRefused) {
  auto refused = [](std::vector<int64_t> cu_seqlens, int num_ranks, int rank) {
    try {
      SequencePlan::make(std::move(cu_seqlens), Layout::kContiguous, num_ranks, rank);
    } catch (const Error& error) {
      return error.code() == ErrorCode::kConfig;
    }
    return false;
  };
  EXPECT_TRUE(refused({}, 1, 0));
  EXPECT_TRUE(refused({1, 5}, 1, 0));
  EXPECT_TRUE(refused({-1, 5}, 1, 0));
  EXPECT_TRUE(refused({0, 5, 4}, 1, 0));
  EXPECT_TRUE(refused({0, -3}, 1, 0));
  EXPECT_TRUE(refused({0, 5}, 0, 0));
  EXPECT_TRUE(refused({0, 5}, 4, 4));
  EXPECT_TRUE(refused({0, 5}, 4, -1));
  EXPECT_FALSE(refused({0, 0, 5}, 4, 3));
}

TEST(SequencePlan, RowsOfTheWrongCountAreRefused) {
  Context ctx;
  const SequencePlan plan = SequencePlan::make({0, 9}, Layout::kZigzag, 2, 1);
  EXPECT_THROW(plan.shard(ctx, ctx.zeros({8, 2}, DType::kF32)), Error);
  EXPECT_THROW(testing::unshard(ctx, plan, ctx.zeros({10, 2}, DType::kF32)), Error);
}

}  // namespace
}  // namespace longship
