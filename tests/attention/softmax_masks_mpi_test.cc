// Every mask and the sink logit: the kernel under every softmax schedule against the definition of
// attention on the whole batch.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "attention/softmax_cpu.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/softmax_case.h"
#include "tests/support/whole_batch.h"

namespace longship {
namespace {

using testing::AttentionBatch;
using testing::AttentionResults;
using testing::cu_seqlens_of;
using testing::expect_equal_to_definition;
using testing::gather;
using testing::mask_text;
using testing::plan_of;
using testing::random_batch;
using testing::random_tensor;
using testing::same_bits;
using testing::world;

const SoftmaxCpu kKernel;
constexpr testing::AttentionHeads kHeads = {6, 3};

// The first document is empty, the longest spans half of the ranks.
const std::vector<int64_t> kDocuments = cu_seqlens_of({0, 4, 1, 23, 0, 9, 1});

struct Strategy {
  const char* name;
  std::unique_ptr<SoftmaxSchedule> (*make)(const Group& sp);
};

constexpr Strategy kStrategies[] = {
    {"ulysses", [](const Group& sp) { return make_ulysses(sp, kKernel); }},
    {"ring", [](const Group& sp) { return make_ring(sp, kKernel); }},
    {"token_ring", [](const Group& sp) { return make_token_ring(sp, kKernel); }},
    {"gather_kv", [](const Group& sp) { return make_gather_kv(sp, kKernel); }},
    {"usp", [](const Group& sp) { return make_usp(sp, kKernel); }},
};

std::vector<AttentionOptions> masks(Context& ctx) {
  return testing::all_masks(0.4, random_tensor(ctx, {kHeads.query}, 9));
}

// Calls f(schedule, layout) for every strategy on every layout, with a trace for failures.
template <class F>
void for_each_strategy(F&& f) {
  for (const Strategy& strategy : kStrategies)
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
      SCOPED_TRACE(fmt::format("{} {}", strategy.name, layout_name(layout)));
      f(*strategy.make(world()), layout);
    }
}

AttentionResults run(Context& ctx, const AttentionBatch& batch, const SoftmaxSchedule& schedule,
                     Layout layout) {
  return testing::run(ctx, batch, schedule, plan_of(batch, layout, world()), world());
}

void expect_equal(const std::vector<std::vector<int64_t>>& batches, DType dtype,
                  double forward_bound, double gradient_bound) {
  Context ctx;
  for (const AttentionOptions& options : masks(ctx))
    for (const auto& cu_seqlens : batches) {
      SCOPED_TRACE(
          fmt::format("{}, cu_seqlens {}", mask_text(options), fmt::join(cu_seqlens, ",")));
      const AttentionBatch batch = random_batch(ctx, cu_seqlens, kHeads, dtype, options);
      for_each_strategy([&](const SoftmaxSchedule& schedule, Layout layout) {
        expect_equal_to_definition(ctx, batch, run(ctx, batch, schedule, layout), forward_bound,
                                   gradient_bound);
      });
    }
}

TEST(SoftmaxMasks, EqualTheWholeBatchInFp32) {
  expect_equal(testing::packed_batches(), DType::kF32, 1e-6, 1e-5);
}

TEST(SoftmaxMasks, EqualTheWholeBatchInFp64) {
  expect_equal({kDocuments}, DType::kF64, 1e-13, 1e-13);
}

TEST(SoftmaxMasks, TwoRunsGiveTheSameBits) {
  Context ctx;
  for (const AttentionOptions& options : masks(ctx)) {
    SCOPED_TRACE(mask_text(options));
    const AttentionBatch batch = random_batch(ctx, kDocuments, kHeads, DType::kBF16, options);
    for_each_strategy([&](const SoftmaxSchedule& schedule, Layout layout) {
      EXPECT_TRUE(same_bits(run(ctx, batch, schedule, layout), run(ctx, batch, schedule, layout)));
    });
  }
}

int64_t first_token_of_document(int64_t token) {
  return *(std::ranges::upper_bound(kDocuments, token) - 1);
}

// The rule of MaskRule for tokens of the batch of kDocuments.
bool sees(const AttentionOptions& options, int64_t query, int64_t key) {
  if (options.anchor && key == 0) return true;
  const int64_t first = first_token_of_document(query);
  if (first != first_token_of_document(key) || (options.causal && key > query)) return false;
  return options.window == 0 || std::abs(query - key) < options.window ||
         key - first < options.num_sink_tokens;
}

TEST(SoftmaxMasks, ATokenReachesTheQueriesThatSeeItAndNoBitOfOthers) {
  Context ctx;
  for (const AttentionOptions& options : masks(ctx))
    for_each_strategy([&](const SoftmaxSchedule& schedule, Layout layout) {
      SCOPED_TRACE(mask_text(options));
      AttentionBatch batch = random_batch(ctx, kDocuments, kHeads, DType::kF32, options);
      const SequencePlan plan = plan_of(batch, layout, world());
      auto attend = [&] {
        const Variable o =
            schedule.attend(ctx, plan.shard(ctx, batch.q_THD), plan.shard(ctx, batch.k_TKD),
                            plan.shard(ctx, batch.v_TKV), plan, options);
        return gather(ctx, world(), plan, o.value());
      };
      const Tensor before = attend();
      for (int64_t changed : {0, 4, 6, 17}) {
        const AttentionBatch kept = batch;
        for (Tensor* tensor : {&batch.k_TKD, &batch.v_TKV}) {
          *tensor = tensor->clone();
          const Tensor row = tensor->slice(0, changed, 1);
          for (int64_t i = 0; i < row.numel(); ++i) row.data<float>()[i] += 1;
        }
        const Tensor after = attend();
        batch = kept;
        std::vector<int64_t> queries;
        for (int64_t t = 0; t < plan.num_tokens(); ++t)
          if (sees(options, t, changed)) queries.push_back(t);
        EXPECT_EQ(testing::changed_tokens(before, after), queries) << "token " << changed;
      }
    });
}

bool is_zero(const Tensor& row) {
  return std::all_of(row.data<float>(), row.data<float>() + row.numel(),
                     [](float value) { return value == 0; });
}

TEST(SoftmaxMasks, TheGradientOfAQueryIsExactlyZeroWhereItSeesNothing) {
  Context ctx;
  for (const AttentionOptions& options : masks(ctx))
    for_each_strategy([&](const SoftmaxSchedule& schedule, Layout layout) {
      SCOPED_TRACE(mask_text(options));
      for (int64_t query : {12, 30}) {
        AttentionBatch batch = random_batch(ctx, kDocuments, kHeads, DType::kF32, options);
        const Tensor grad_row = batch.do_THV.slice(0, query, 1).clone();
        batch.do_THV.fill_zero();
        batch.do_THV.slice(0, query, 1).copy_from(grad_row);
        const AttentionResults found = run(ctx, batch, schedule, layout);
        for (int64_t t = 0; t < kDocuments.back(); ++t) {
          EXPECT_EQ(is_zero(found.dq_THD.slice(0, t, 1)), t != query) << t;
          EXPECT_EQ(is_zero(found.dk_TKD.slice(0, t, 1)), !sees(options, query, t)) << t;
          EXPECT_EQ(is_zero(found.dv_TKV.slice(0, t, 1)), !sees(options, query, t)) << t;
        }
      }
    });
}

// Keys of this rank that some query of another rank sees, counted pair by pair.
int64_t rows_seen_elsewhere(const AttentionOptions& options, const SequencePlan& plan) {
  auto tokens_of = [&](int rank) {
    std::vector<int64_t> tokens;
    for (const Segment& segment : plan.segments(rank))
      for (int64_t i = 0; i < segment.length; ++i) tokens.push_back(segment.global_begin + i);
    return tokens;
  };
  int64_t rows = 0;
  for (int peer = 0; peer < plan.num_ranks(); ++peer) {
    if (peer == plan.rank()) continue;
    const std::vector<int64_t> queries = tokens_of(peer);
    for (int64_t key : tokens_of(plan.rank()))
      rows += std::ranges::any_of(queries, [&](int64_t t) { return sees(options, t, key); });
  }
  return rows;
}

TEST(GatherKv, SendsExactlyTheKeysThatAreSeenUnderEveryMask) {
  Context ctx;
  const auto schedule = make_gather_kv(world(), kKernel);
  for (const AttentionOptions& options : masks(ctx))
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
      SCOPED_TRACE(fmt::format("{} {}", layout_name(layout), mask_text(options)));
      const AttentionBatch batch = random_batch(ctx, kDocuments, kHeads, DType::kF32, options);
      world().reset_stats();
      run(ctx, batch, *schedule, layout);
      const int64_t row_bytes = kHeads.kv * (batch.k_TKD.dim(2) + batch.v_TKV.dim(2)) * 4;
      EXPECT_EQ(world().stats().sent_bytes("gather_kv.fwd"),
                rows_seen_elsewhere(options, plan_of(batch, layout, world())) * row_bytes);
    }
}

// Documents that are whole on one rank need nothing of others but the anchor.
TEST(TokenRing, QueriesTravelToTheAnchorAndAreComputedNowhereElse) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank(), s = 5;
  std::vector<int64_t> lengths(static_cast<size_t>(P), s);
  const AttentionOptions options = {.anchor = true};
  const AttentionBatch batch =
      random_batch(ctx, cu_seqlens_of(lengths), kHeads, DType::kF32, options);
  world().reset_stats();
  run(ctx, batch, *make_token_ring(world(), kKernel), Layout::kContiguous);
  const int64_t D = batch.q_THD.dim(2), V = batch.v_TKV.dim(2);
  // Rank r passes on the queries of r .. P - 1; rank 0 sends P - 1 partial outputs home.
  const int64_t passed_on = r > 0 ? P - r : 0, returned = r == 0 ? P - 1 : 0;
  EXPECT_EQ(world().stats().sent_bytes("token_ring.fwd"),
            s * kHeads.query * (passed_on * D + returned * (V + 1)) * 4);
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
