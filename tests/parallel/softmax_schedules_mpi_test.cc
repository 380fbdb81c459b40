// The softmax schedules against the definition of attention on the whole batch.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include <set>
#include <span>

#include "parallel/softmax_schedule.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/noting_softmax.h"
#include "tests/support/op_check.h"
#include "tests/support/softmax_case.h"
#include "tests/support/whole_batch.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::cu_seqlens_of;
using testing::gather;
using testing::NaiveSoftmax;
using testing::NotingSoftmax;
using testing::packed_batches;
using testing::Pass;
using testing::plan_of;
using testing::run;
using testing::same_bits;
using testing::world;
using Batch = testing::AttentionBatch;
using Heads = testing::AttentionHeads;
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
        EXPECT_TRUE(bitwise_equal(run(ctx, batch, strategy, world()).o_THV,
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
  EXPECT_THROW(make_gather_kv(world(), kKernel, -1), Error);
}

// Of whole heads, in up to so many groups of them.
std::vector<std::unique_ptr<SoftmaxSchedule>> schedules_of_whole_heads(int64_t max_head_groups) {
  std::vector<std::unique_ptr<SoftmaxSchedule>> all;
  all.push_back(make_ulysses(world(), kKernel, {.max_head_groups = max_head_groups}));
  const int size = world().size();
  for (int degree = 2; degree <= size; ++degree)
    if (size % degree == 0)
      all.push_back(make_usp(world(), kKernel,
                             {.ulysses_degree = degree, .max_head_groups = max_head_groups}));
  return all;
}

TEST(UlyssesAndUsp, GiveTheSameBitsAndSendTheSameBytesHoweverHeadsAreGrouped) {
  Context ctx;
  for (Heads heads : {Heads{16, 16}, {18, 9}, {8, 2}, {5, 5}})
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (DType dtype : {DType::kBF16, DType::kF32}) {
        Batch batch = make_batch(ctx, cu_seqlens_of({13, 1, 20}), heads, dtype, 9);
        batch.options.sink_logit_H = testing::random_tensor(ctx, {heads.query}, 5);
        const SequencePlan plan = plan_of(batch, layout, world());
        auto results = [&](const SoftmaxSchedule& schedule) {
          world().reset_stats();
          Results found = run(ctx, batch, schedule, plan, world());
          return std::pair(std::move(found), world().stats().total_sent_bytes());
        };
        const auto whole = schedules_of_whole_heads(1);
        for (int64_t max_groups : {2, 3, 100}) {
          const auto grouped = schedules_of_whole_heads(max_groups);
          for (size_t i = 0; i < whole.size(); ++i) {
            SCOPED_TRACE(fmt::format("{} heads over {}, {} groups, schedule {}", heads.query,
                                     heads.kv, max_groups, i));
            const auto [expected, expected_bytes] = results(*whole[i]);
            const auto [found, bytes] = results(*grouped[i]);
            EXPECT_TRUE(same_bits(found, expected));
            EXPECT_EQ(bytes, expected_bytes);
          }
        }
      }
  EXPECT_THROW(make_ulysses(world(), kKernel, {.max_head_groups = -1}), Error);
}

TEST(Ulysses, ComputesAGroupOfHeadsWhileItsNeighboursTravel) {
  Context ctx;
  const int64_t H = 3 * world().size();  // three groups of one head
  const Batch batch = make_batch(ctx, {0, 40}, {H, H}, DType::kF32);
  // The exchanges that had been started whenever a group of heads is computed.
  const NotingSoftmax kernel(kKernel, [](Pass pass, const SoftmaxBlockInput&, const BlockMask&) {
    return world()
        .stats()
        .by_label[pass == Pass::kForward ? "ulysses.fwd" : "ulysses.bwd"]
        .num_calls;
  });
  const auto schedule = make_ulysses(world(), kernel, {.max_head_groups = 3});
  world().reset_stats();
  run(ctx, batch, *schedule, plan_of(batch, Layout::kContiguous, world()), world());
  // The inputs of this group and the next, and o of those before; then do, and the gradients. One
  // rank sends nothing.
  const auto expected =
      world().size() > 1 ? std::vector<int64_t>{2, 4, 5} : std::vector<int64_t>{0};
  EXPECT_EQ(kernel.forward_notes, expected);
  EXPECT_EQ(kernel.backward_notes, expected);
}

TEST(SoftmaxSchedules, GiveTheSameBitsWhenTheirTensorsBecomeReadyOneAfterAnother) {
  Context ctx;
  const Batch batch = make_batch(ctx, cu_seqlens_of({13, 1, 20}), {8, 4}, DType::kF32);
  for (const Strategy& strategy : strategies()) {
    SCOPED_TRACE(strategy.label());
    const SequencePlan plan = plan_of(batch, strategy.layout, world());
    const auto schedule = strategy.make(world());
    const std::string label = strategy.name + ".fwd";
    const Results expected = run(ctx, batch, *schedule, plan, world());

    Tape tape;
    ctx.tape = &tape;
    std::vector<Variable> leaves;
    std::vector<int64_t> calls;  // exchanges before each is ready
    auto source = [&](const Tensor& whole) {
      return [&, whole](Context&) {
        calls.push_back(world().stats().by_label[label].num_calls);
        return leaves.emplace_back(Variable::leaf(plan.shard(ctx, whole)));
      };
    };
    const AttentionSources sources = {
        .shape = AttentionShape::of(plan.shard(ctx, batch.q_THD), plan.shard(ctx, batch.k_TKD),
                                    plan.shard(ctx, batch.v_TKV), plan),
        .q_THD = source(batch.q_THD),
        .k_TKD = source(batch.k_TKD),
        .v_TKV = source(batch.v_TKV)};
    world().reset_stats();
    const Variable o = schedule->attend_when_ready(ctx, sources, plan, batch.options);
    tape.backward(ctx, o, plan.shard(ctx, batch.do_THV));
    ctx.tape = nullptr;
    EXPECT_TRUE(bitwise_equal(gather(ctx, world(), plan, o.value()), expected.o_THV));
    for (size_t i = 0; i < 3; ++i)
      EXPECT_TRUE(bitwise_equal(gather(ctx, world(), plan, leaves.at(i).gradient()->sum()),
                                expected.gradients()[i].second));
    const bool early = world().size() > 1 && strategy.name == "ulysses";
    if (strategy.name != "usp") {  // whose degree decides
      EXPECT_EQ(calls, early ? (std::vector<int64_t>{0, 1, 2}) : (std::vector<int64_t>{0, 0, 0}));
    }
  }
}

TEST(Ulysses, RefusesTensorsThatAreNotAsAnnounced) {
  Context ctx;
  const Batch batch = make_batch(ctx, {0, 24}, {4, 2}, DType::kF32);
  const SequencePlan plan = plan_of(batch, Layout::kContiguous, world());
  const Tensor q = plan.shard(ctx, batch.q_THD), k = plan.shard(ctx, batch.k_TKD),
               v = plan.shard(ctx, batch.v_TKV);
  const AttentionSources sources = {.shape = AttentionShape::of(q, k, v, plan),
                                    .q_THD = [&](Context&) { return q; },
                                    .k_TKD = [&](Context&) { return k.slice(1, 0, 1); },
                                    .v_TKV = [&](Context&) { return v; }};
  EXPECT_THROW(make_ulysses(world(), kKernel)->attend_when_ready(ctx, sources, plan, batch.options),
               Error);
}

TEST(SoftmaxSchedules, ATokenReachesOnlyLaterPositionsOfItsOwnDocument) {
  Context ctx;
  for (const Strategy& strategy : strategies()) {
    SCOPED_TRACE(strategy.label());
    testing::expect_reach_of_tokens(ctx, *strategy.make(world()), strategy.layout, world());
  }
}

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
      const NotingSoftmax kernel(kKernel);
      run(ctx, batch, *strategy.make(world(), kernel), plan, world());
      const int blocks = strategy.name == "ring" ? expected.ring : expected.token_ring;
      EXPECT_EQ(std::ssize(kernel.forward_notes), blocks);
      EXPECT_EQ(std::ssize(kernel.backward_notes), blocks);
    }
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
    EXPECT_TRUE(bitwise_equal(trained.value(), constant.value())) << strategy.label();
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
      EXPECT_TRUE(bitwise_equal(gather(ctx, world(), plan, inputs[wanted].gradient()->sum()),
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
