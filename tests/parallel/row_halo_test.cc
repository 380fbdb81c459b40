#include "parallel/row_halo.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "parallel/cut_segments.h"
#include "parallel/group_backend.h"

namespace longship {
namespace {

// Keeps the batches of one rank instead of sending them.
class BatchKeeper final : public Group::Backend {
 public:
  BatchKeeper(int rank, int size) : Backend(rank, size, std::make_shared<CommRecorder>()) {}

  std::vector<std::vector<P2P>> batches;

  std::shared_ptr<Backend> split(int, int) override { return nullptr; }
  Work exchange(std::string_view, std::vector<P2P> batch) override {
    batches.push_back(std::move(batch));
    return {};
  }
  Work reduce_scatter(std::string_view, const Tensor&, const Tensor&,
                      std::span<const int64_t>) override {
    return {};
  }
  Work all_reduce(std::string_view, const Tensor&, ReduceOp) override { return {}; }
};

// Shapes of the messages from `rank` to `peer`, or the other way round.
std::vector<Shape> messages(const std::vector<P2P>& batch, P2P::Kind kind, int peer) {
  std::vector<Shape> shapes;
  for (const P2P& message : batch)
    if (message.kind == kind && message.peer == peer) shapes.push_back(message.tensor.shape());
  return shapes;
}

const std::vector<std::vector<int64_t>> kBatches = {
    {0, 61}, {0, 3, 3, 53, 54, 61}, {0, 2, 3}, {0, 8, 16, 24, 32}, {0, 0}};

// Calls f(cu_seqlens, layout, number of ranks).
template <class F>
void for_each_split(F&& f) {
  for (const std::vector<int64_t>& cu_seqlens : kBatches)
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (int num_ranks : {1, 2, 4, 8}) {
        SCOPED_TRACE(fmt::format("cu_seqlens {}, {}, {} ranks", fmt::join(cu_seqlens, ","),
                                 layout_name(layout), num_ranks));
        f(cu_seqlens, layout, num_ranks);
      }
}

TEST(CutSegments, AreThoseOfDocumentsThatNoRankHoldsWhole) {
  for_each_split([](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    const auto plan = SequencePlan::make(cu_seqlens, layout, num_ranks, 0);
    const std::vector<CutSegment> cut = cut_segments(plan);
    for (size_t i = 1; i < cut.size(); ++i)
      EXPECT_LT(cut[i - 1].segment.global_begin, cut[i].segment.global_begin);
    std::vector<int64_t> cut_tokens(cu_seqlens.size()), next_row(static_cast<size_t>(num_ranks));
    for (const CutSegment& each : cut) {
      EXPECT_EQ(plan.segments(each.rank)[static_cast<size_t>(each.index)], each.segment);
      const std::vector<int64_t> of_rank = cut_segments(plan, each.rank);
      EXPECT_EQ(of_rank[static_cast<size_t>(each.row)], each.index);
      cut_tokens[static_cast<size_t>(each.segment.document)] += each.segment.length;
      EXPECT_NE(each.segment.length, cu_seqlens[static_cast<size_t>(each.segment.document) + 1] -
                                         cu_seqlens[static_cast<size_t>(each.segment.document)]);
    }
    // A document is cut in all its segments or in none.
    for (int rank = 0; rank < num_ranks; ++rank) {
      const std::vector<int64_t> of_rank = cut_segments(plan, rank);
      EXPECT_LE(of_rank.size(), layout == Layout::kZigzag ? 4u : 2u);
      EXPECT_TRUE(std::is_sorted(of_rank.begin(), of_rank.end()));
    }
    for (size_t d = 0; d + 1 < cu_seqlens.size(); ++d)
      EXPECT_TRUE(cut_tokens[d] == 0 || cut_tokens[d] == cu_seqlens[d + 1] - cu_seqlens[d]);
  });
}

TEST(RowHalo, HoldsTheNeighboursOfASegmentWithinItsDocument) {
  for_each_split([](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      const auto plan = SequencePlan::make(cu_seqlens, layout, num_ranks, rank);
      for (int64_t width : {0, 1, 3, 15})
        for (HaloSide side : {HaloSide::kBefore, HaloSide::kBehind}) {
          const RowHalo halo(plan, width, side);
          int64_t num_rows = 0;
          for (size_t n = 0; n < plan.local_segments().size(); ++n) {
            const Segment& segment = plan.local_segments()[n];
            const int64_t end =
                cu_seqlens[static_cast<size_t>(segment.document) + 1] - segment.global_begin;
            const int64_t available =
                side == HaloSide::kBefore ? segment.position : end - segment.length;
            EXPECT_EQ(halo.rows(static_cast<int64_t>(n)).count, std::min(width, available));
            num_rows += halo.rows(static_cast<int64_t>(n)).count;
          }
          EXPECT_EQ(halo.num_rows(), num_rows);
        }
    }
  });
}

TEST(RowHalo, SendsAMessagePerTensorAndRunOfRowsInOneBatch) {
  for_each_split([](const std::vector<int64_t>& cu_seqlens, Layout layout, int num_ranks) {
    Context ctx;
    std::vector<std::vector<P2P>> batches;  // by rank
    for (int rank = 0; rank < num_ranks; ++rank) {
      const auto plan = SequencePlan::make(cu_seqlens, layout, num_ranks, rank);
      const RowHalo halo(plan, 3, HaloSide::kBefore);
      const TensorRows x = {ctx.zeros({plan.num_local_tokens(), 2}, DType::kF32),
                            ctx.zeros({plan.num_local_tokens(), 5}, DType::kF32)};
      const auto keeper = std::make_shared<BatchKeeper>(rank, num_ranks);
      halo.exchange(Group(keeper), "test", x, empty_like(ctx, x, halo.num_rows()));
      ASSERT_EQ(keeper->batches.size(), 1u);
      batches.push_back(keeper->batches[0]);
    }
    for (int from = 0; from < num_ranks; ++from)
      for (int to = 0; to < num_ranks; ++to) {
        const auto sent = messages(batches[static_cast<size_t>(from)], P2P::Kind::kSend, to);
        EXPECT_EQ(sent, messages(batches[static_cast<size_t>(to)], P2P::Kind::kReceive, from));
        EXPECT_EQ(sent.size() % 2, 0u);
        for (size_t i = 0; i + 1 < sent.size(); i += 2) {
          EXPECT_EQ(sent[i][0], sent[i + 1][0]);
          EXPECT_EQ(sent[i][1], 2);
          EXPECT_EQ(sent[i + 1][1], 5);
        }
        // A rank may continue the next one in both of its chunks.
        EXPECT_LE(sent.size(), from == to ? 0u : layout == Layout::kZigzag ? 4u : 2u);
        if (cu_seqlens == kBatches[0] && to == from + 1) {
          EXPECT_GE(sent.size(), 2u);
        }
      }
  });
}

TEST(RowHalo, OfOneRankIsEmpty) {
  Context ctx;
  const RowHalo halo(SequencePlan::local({0, 5, 9}), 3, HaloSide::kBefore);
  EXPECT_EQ(halo.num_rows(), 0);
  halo.exchange(Group::self(), "test", {ctx.zeros({9, 2}, DType::kF32)},
                {ctx.zeros({0, 2}, DType::kF32)})
      .wait();
  EXPECT_EQ(Group::self().stats().total_sent_bytes(), 0);
}

}  // namespace
}  // namespace longship
