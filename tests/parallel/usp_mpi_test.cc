// Ulysses x ring of every shape against the definition of attention on the whole batch.
// ranks: 1 2 3 4 6 8
#include "parallel/usp.h"

#include <gtest/gtest.h>

#include <span>

#include "parallel/softmax_schedule.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/softmax_case.h"

namespace longship {
namespace {

using testing::AttentionBatch;
using testing::AttentionHeads;
using testing::AttentionResults;
using testing::expect_equal_to_definition;
using testing::mask_text;
using testing::NaiveSoftmax;
using testing::packed_batches;
using testing::plan_of;
using testing::random_batch;
using testing::run;
using testing::same_bits;
using testing::world;

const NaiveSoftmax kKernel;

// One KV head for all ranks, fewer than ranks, as many as query heads; heads that do not divide,
// and fewer heads than ranks.
constexpr AttentionHeads kHeads[] = {{8, 1}, {8, 2}, {8, 8}, {6, 3}, {3, 3}, {3, 1}, {5, 5}};
constexpr AttentionHeads kFewHeads[] = {{8, 2}, {5, 5}};

std::vector<std::vector<int64_t>> batches() {
  auto all = packed_batches();
  all.push_back({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10});  // of one token each
  return all;
}

// Every degree that these ranks allow, and 0: chosen by head counts.
std::vector<int> degrees() {
  std::vector<int> all = {0};
  for (int degree = 1; degree <= world().size(); ++degree)
    if (world().size() % degree == 0) all.push_back(degree);
  return all;
}

std::unique_ptr<SoftmaxSchedule> make(int degree) {
  return make_usp(world(), kKernel, {.ulysses_degree = degree});
}

// Calls f(schedule, layout, cu_seqlens) for every case, with a trace for failures.
template <class F>
void for_each_case(F&& f) {
  for (int degree : degrees()) {
    const auto schedule = make(degree);
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (const auto& cu_seqlens : batches()) {
        SCOPED_TRACE(fmt::format("degree {}, {}, cu_seqlens {}", degree, layout_name(layout),
                                 fmt::join(cu_seqlens, ",")));
        f(*schedule, layout, cu_seqlens);
      }
  }
}

void expect_equal(std::span<const AttentionHeads> all_heads, DType dtype, double forward_bound,
                  double gradient_bound) {
  Context ctx;
  for_each_case(
      [&](const SoftmaxSchedule& schedule, Layout layout, const std::vector<int64_t>& cu_seqlens) {
        for (AttentionHeads heads : all_heads) {
          SCOPED_TRACE(fmt::format("{} heads over {}", heads.query, heads.kv));
          const AttentionBatch batch = random_batch(ctx, cu_seqlens, heads, dtype);
          expect_equal_to_definition(
              ctx, batch, run(ctx, batch, schedule, plan_of(batch, layout, world()), world()),
              forward_bound, gradient_bound);
        }
      });
}

TEST(Usp, EqualsTheWholeBatchInFp32) {
  expect_equal(kHeads, DType::kF32, 1e-6, 1e-5);
}

// o is rounded once (2^-9 at most); the gradients once more, and o enters them through delta.
TEST(Usp, EqualsTheWholeBatchInBf16WithinItsRounding) {
  expect_equal(kFewHeads, DType::kBF16, 2.5e-3, 6e-3);
}

TEST(Usp, EqualsTheWholeBatchUnderEveryMask) {
  Context ctx;
  const Tensor sink_logit_H = testing::random_tensor(ctx, {6}, 5);
  for (const AttentionOptions& options :
       {AttentionOptions{.scale = 0.4, .window = 5},
        AttentionOptions{.scale = 0.4, .window = 5, .num_sink_tokens = 3},
        AttentionOptions{.scale = 0.4, .causal = false},
        AttentionOptions{.scale = 0.4, .anchor = true},
        AttentionOptions{.scale = 0.4, .sink_logit_H = sink_logit_H},
        AttentionOptions{.scale = 0.4,
        .window = 9,
        .num_sink_tokens = 1,
        .anchor = true,
        .sink_logit_H = sink_logit_H}})
    for_each_case([&](const SoftmaxSchedule& schedule, Layout layout,
                      const std::vector<int64_t>& cu_seqlens) {
      SCOPED_TRACE(mask_text(options));
      const AttentionBatch batch = random_batch(ctx, cu_seqlens, {6, 3}, DType::kF64, options);
      expect_equal_to_definition(
          ctx, batch, run(ctx, batch, schedule, plan_of(batch, layout, world()), world()), 1e-13,
          1e-13);
    });
}

TEST(Usp, TwoRunsGiveTheSameBits) {
  Context ctx;
  for_each_case(
      [&](const SoftmaxSchedule& schedule, Layout layout, const std::vector<int64_t>& cu_seqlens) {
        const AttentionBatch batch = random_batch(ctx, cu_seqlens, {8, 2}, DType::kF32);
        const SequencePlan plan = plan_of(batch, layout, world());
        EXPECT_TRUE(same_bits(run(ctx, batch, schedule, plan, world()),
                              run(ctx, batch, schedule, plan, world())));
      });
}

TEST(Usp, IsUlyssesOrRingAtTheEndsOfItsDegrees) {
  Context ctx;
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
    for (const auto& cu_seqlens : batches()) {
      const AttentionBatch batch = random_batch(ctx, cu_seqlens, {8, 2}, DType::kF32);
      const SequencePlan plan = plan_of(batch, layout, world());
      auto results = [&](const std::unique_ptr<SoftmaxSchedule>& schedule) {
        return run(ctx, batch, *schedule, plan, world());
      };
      EXPECT_TRUE(
          same_bits(results(make(world().size())), results(make_ulysses(world(), kKernel))));
      EXPECT_TRUE(same_bits(results(make(1)), results(make_ring(world(), kKernel))));
    }
}

TEST(Usp, ATokenReachesOnlyLaterPositionsOfItsOwnDocument) {
  Context ctx;
  for (int degree : degrees())
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
      SCOPED_TRACE(fmt::format("degree {}", degree));
      testing::expect_reach_of_tokens(ctx, *make(degree), layout, world());
    }
}

// The bytes of all ranks, forward and backward, for equal shards of one document in bf16.
int64_t total_bytes(const SoftmaxSchedule& schedule, AttentionHeads heads, Layout layout) {
  Context ctx;
  const int64_t P = world().size(), s = 4;
  const AttentionBatch batch = random_batch(ctx, {0, s * P}, heads, DType::kBF16);
  world().reset_stats();
  run(ctx, batch, schedule, plan_of(batch, layout, world()), world());
  const CommStats stats = world().stats();
  return world().all_reduce_value("test", stats.sent_bytes("usp.fwd") + stats.sent_bytes("usp.bwd"),
                                  ReduceOp::kSum);
}

TEST(Usp, SendsOnAverageTheBytesByWhichItsDegreesAreChosen) {
  const int64_t s = 4, width = 6 + 10, e = 2;
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
    for (AttentionHeads heads : kHeads)
      for (int degree : degrees()) {
        const UspDegrees used =
            degree == 0 ? choose_usp_degrees(heads.query, heads.kv, world().size())
                        : UspDegrees{.ulysses = degree, .ring = world().size() / degree};
        EXPECT_EQ(total_bytes(*make(degree), heads, layout),
                  s * width * e * usp_traffic(heads.query, heads.kv, used))
            << heads.query << " heads over " << heads.kv << ", degree " << degree;
      }
}

TEST(Usp, ChoosesAnewForLayersOfOtherHeads) {
  const auto schedule = make(0);
  for (AttentionHeads heads : {AttentionHeads{8, 1}, {8, 8}, {2, 2}, {8, 1}, {6, 6}}) {
    const UspDegrees chosen = choose_usp_degrees(heads.query, heads.kv, world().size());
    EXPECT_EQ(total_bytes(*schedule, heads, Layout::kZigzag),
              total_bytes(*make(chosen.ulysses), heads, Layout::kZigzag));
  }
}

TEST(Usp, ADegreeThatDoesNotDivideTheRanksIsRefused) {
  for (int degree : {-1, world().size() + 1})
    testing::expect_error(ErrorCode::kConfig, {"Ulysses degree", std::to_string(degree)},
                          [&] { make(degree); });
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
