// LASP, LASP-2 and All-Scan against a plain fp64 fold over the whole batch.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "parallel/affine_compose.h"
#include "parallel/group_backend.h"
#include "parallel/state_schedule.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/op_check.h"
#include "tests/support/state_case.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::cut_of;
using testing::expect_error;
using testing::expected_states;
using testing::GivenMaps;
using testing::kStateHeads;
using testing::kStateKeys;
using testing::kStateValues;
using testing::make_summary;
using testing::relative_rms;
using testing::StateCase;
using testing::StateWalk;
using testing::world;

constexpr Transition kTransitions[] = {Transition::kIdentity, Transition::kScalar,
                                       Transition::kDiagonal, Transition::kDense};
constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kZigzag};
constexpr ScanDirection kDirections[] = {ScanDirection::kForward, ScanDirection::kBackward};

struct Strategy {
  std::string name;
  std::unique_ptr<StateSchedule> schedule;
};

// Made once: a zeco splits a communicator off.
const std::vector<Strategy>& strategies() {
  static const std::vector<Strategy> all = [] {
    std::vector<Strategy> made;
    made.push_back({"lasp", make_lasp(world())});
    made.push_back({"lasp2", make_lasp2(world())});
    made.push_back({"zeco", make_zeco(world(), {.num_blocks = 4})});
    made.push_back({"zeco", make_zeco(world(), {.num_blocks = 100})});
    return made;
  }();
  return all;
}

// Calls f(case) for every case of a dtype, with a trace for failures.
template <class F>
void for_each_case(DType dtype, F&& f) {
  for (Transition transition : kTransitions)
    for (Layout layout : kLayouts)
      for (ScanDirection direction : kDirections)
        for (const auto& cu_seqlens : testing::state_batches()) {
          SCOPED_TRACE(fmt::format("transition {}, {}, direction {}, cu_seqlens {}, rank {}",
                                   static_cast<int>(transition), layout_name(layout),
                                   static_cast<int>(direction), fmt::join(cu_seqlens, ","),
                                   world().rank()));
          f(StateCase{transition, layout, direction, cu_seqlens, dtype});
        }
}

Tensor carry(Context& ctx, const StateSchedule& schedule, const StateCase& c) {
  GivenMaps maps = c.maps(ctx);
  return schedule.carry(ctx, maps, c.plan(), c.direction)->wait();
}

void expect_equal_to_fold(DType dtype, double bound) {
  Context ctx;
  for_each_case(dtype, [&](const StateCase& c) {
    const Tensor expected = expected_states(ctx, c);
    for (const auto& [name, schedule] : strategies()) {
      const Tensor found = carry(ctx, *schedule, c);
      ASSERT_EQ(found.shape(), expected.shape()) << name;
      EXPECT_EQ(found.dtype(), dtype) << name;
      EXPECT_LE(relative_rms(found, expected), bound) << name;
    }
  });
}

TEST(StateSchedules, EqualAnFp64FoldOverTheBatch) {
  expect_equal_to_fold(DType::kF32, 1e-6);
}

TEST(StateSchedules, EqualAnFp64FoldInFp64) {
  expect_equal_to_fold(DType::kF64, 1e-14);
}

// So results depend neither on the number of ranks that share the maps, nor on blocks or arrival.
TEST(StateSchedules, GiveTheBitsOfOneRankFoldingAlone) {
  Context ctx;
  for_each_case(DType::kF32, [&](const StateCase& c) {
    const StateWalk walk = walk_of(c);
    const AffineSummary maps = make_summary(ctx, walk.segments, c.transition, c.dtype);
    const Tensor folded = ctx.zeros(c.summary(ctx).b_NHKV.shape(), c.dtype);
    Tensor state;  // undefined: zero
    for (size_t i = 0; i < walk.segments.size(); ++i) {
      if (i > 0 && walk.segments[i].document != walk.segments[i - 1].document) state = Tensor();
      if (walk.local_rows[i] >= 0 && state.defined())
        folded.slice(0, walk.local_rows[i], 1)
            .copy_from(state.reshape({1, kStateHeads, kStateKeys, kStateValues}));
      const Tensor next = ctx.empty({kStateHeads, kStateKeys, kStateValues}, c.dtype);
      apply(ctx, map_of(maps, static_cast<int64_t>(i)), c.direction, state, next);
      state = next;
    }
    for (const auto& [name, schedule] : strategies())
      for (int repeat = 0; repeat < 2; ++repeat)
        EXPECT_TRUE(bitwise_equal(carry(ctx, *schedule, c), folded)) << name;
  });
}

TEST(StateSchedules, GiveTheSameBitsForLargeStatesWithAnyNumberOfThreads) {
  const int64_t K = 50, V = 49;  // large enough to be shared among threads
  Context ctx;
  Context threaded = ctx;
  threaded.num_threads = 3;
  const SequencePlan plan =
      SequencePlan::make({0, 40}, Layout::kZigzag, world().size(), world().rank());
  const auto N = std::ssize(cut_of(plan, plan.rank()));
  const auto seed = static_cast<uint64_t>(world().rank());
  const AffineSummary summary{
      Transition::kDense, testing::random_tensor(ctx, {N, 2, K, K}, 10 + seed, 0.1).to(DType::kF32),
      testing::random_tensor(ctx, {N, 2, K, V}, 30 + seed).to(DType::kF32)};
  for (ScanDirection direction : kDirections) {
    GivenMaps maps(summary, direction);
    const Tensor first = strategies()[0].schedule->carry(ctx, maps, plan, direction)->wait();
    for (const auto& [name, schedule] : strategies())
      for (Context* each : {&ctx, &threaded})
        EXPECT_TRUE(bitwise_equal(schedule->carry(*each, maps, plan, direction)->wait(), first))
            << name << " with " << each->num_threads << " threads";
  }
}

// A document's NaNs stay in it, and M of a document's first segment multiplies nothing.
TEST(StateSchedules, NeverCarryAStateIntoAnotherDocument) {
  Context ctx;
  const std::vector<int64_t> cu_seqlens = {0, 7, 8, 30, 30, 45, 61};
  for (Transition transition : kTransitions)
    for (Layout layout : kLayouts)
      for (ScanDirection direction : kDirections)
        for (const auto& [name, schedule] : strategies()) {
          const StateCase c{transition, layout, direction, cu_seqlens};
          const SequencePlan plan = c.plan();
          const std::vector<Segment> cut = cut_of(plan, plan.rank());
          const Tensor clean = carry(ctx, *schedule, c);
          for (int64_t poisoned : {0, 2, 4, 5}) {
            const AffineSummary summary = c.summary(ctx);
            const float nan = std::numeric_limits<float>::quiet_NaN();
            auto poison = [&](const Tensor& rows, int64_t n) {
              const Tensor row = rows.slice(0, n, 1);
              std::fill_n(row.data<float>(), row.numel(), nan);
            };
            for (int64_t n = 0; n < std::ssize(cut); ++n) {
              const Segment& segment = cut[static_cast<size_t>(n)];
              const auto end = cu_seqlens[static_cast<size_t>(segment.document) + 1];
              const bool first = c.forward() ? segment.position == 0
                                             : segment.global_begin + segment.length == end;
              if (segment.document == poisoned) poison(summary.b_NHKV, n);
              if (summary.m.defined() && (segment.document == poisoned || first))
                poison(summary.m, n);
            }
            GivenMaps maps(summary, direction);
            const Tensor found = schedule->carry(ctx, maps, plan, direction)->wait();
            for (int64_t n = 0; n < std::ssize(cut); ++n) {
              if (cut[static_cast<size_t>(n)].document == poisoned) continue;
              EXPECT_TRUE(bitwise_equal(found.slice(0, n, 1), clean.slice(0, n, 1)))
                  << name << ", NaN in document " << poisoned << ", segment " << n;
            }
          }
        }
}

// Segments of this rank that hand their state on, by the definition of a document.
int64_t num_handed_on(const StateCase& c) {
  int64_t count = 0;
  const SequencePlan plan = c.plan();
  for (const Segment& segment : plan.local_segments()) {
    const auto document = static_cast<size_t>(segment.document);
    const int64_t length = c.cu_seqlens[document + 1] - c.cu_seqlens[document];
    count += c.forward() ? segment.position + segment.length < length : segment.position > 0;
  }
  return count;
}

TEST(StateSchedules, SendTheBytesOfTheirFormulas) {
  Context ctx;
  for (DType dtype : {DType::kF32, DType::kF64})
    for_each_case(dtype, [&](const StateCase& c) {
      const int64_t e = dtype_size(dtype),
                    state_bytes = kStateHeads * kStateKeys * kStateValues * e;
      const int64_t m_bytes = c.transition == Transition::kIdentity
                                  ? 0
                                  : num_elements(testing::shape_of_m(c.transition)) * e;
      for (const auto& [name, schedule] : strategies()) {
        world().reset_stats();
        carry(ctx, *schedule, c);
        const int64_t expected =
            num_handed_on(c) *
            (name == "lasp2" ? (world().size() - 1) * (state_bytes + m_bytes) : state_bytes);
        const CommStats stats = world().stats();
        EXPECT_EQ(stats.sent_bytes(name + (c.forward() ? ".fwd" : ".bwd")), expected) << name;
        EXPECT_EQ(stats.total_sent_bytes(), expected) << name;
      }
    });
}

TEST(StateSchedules, SendOneStatePerRankBorderOfADocument) {
  Context ctx;
  const int64_t P = world().size(), r = world().rank();
  for (ScanDirection direction : kDirections) {
    const StateCase c{Transition::kDense, Layout::kContiguous, direction, {0, 8 * P}};
    const bool last = c.forward() ? r == P - 1 : r == 0;
    const int64_t state_bytes = 4 * kStateHeads * kStateKeys * kStateValues;
    const int64_t map_bytes = state_bytes + 4 * kStateHeads * kStateKeys * kStateKeys;
    for (const auto& [name, schedule] : strategies()) {
      world().reset_stats();
      carry(ctx, *schedule, c);
      EXPECT_EQ(world().stats().total_sent_bytes(),
                last ? 0 : (name == "lasp2" ? (P - 1) * map_bytes : state_bytes))
          << name;
    }
  }
}

// LASP-2 gathers in one step; a chain takes a round per link, and one more per further block.
TEST(StateSchedules, TakeTheStepsOfTheirPapers) {
  Context ctx;
  const int64_t P = world().size();
  const StateCase c{Transition::kScalar, Layout::kContiguous, ScanDirection::kForward, {0, 8 * P}};
  const int64_t steps[] = {P - 1, 1, P - 2 + 4, P - 2 + kStateValues};
  for (size_t i = 0; i < strategies().size(); ++i) {
    world().reset_stats();
    carry(ctx, *strategies()[i].schedule, c);
    const CommStats stats = world().stats();
    int64_t num_calls = 0;
    for (const auto& [label, entry] : stats.by_label) num_calls += entry.num_calls;
    EXPECT_EQ(num_calls, P == 1 ? 0 : steps[i]) << strategies()[i].name;
  }
}

TEST(StateSchedules, LetTheCallerCommunicateBeforeWaiting) {
  Context ctx;
  const Group other = world().split(0, world().rank());
  const std::vector<int64_t> cu_seqlens = {0, 5, 61};
  for (Layout layout : kLayouts)
    for (ScanDirection direction : kDirections)
      for (const auto& [name, schedule] : strategies()) {
        const StateCase c{Transition::kDense, layout, direction, cu_seqlens};
        GivenMaps maps = c.maps(ctx);
        auto pending = schedule->carry(ctx, maps, c.plan(), direction);
        for (int64_t i = 0; i < 10; ++i) {
          const int64_t P = world().size();
          for (const Group& group : {other, world()})
            EXPECT_EQ(group.all_reduce_value("test", world().rank() + i, ReduceOp::kSum),
                      P * (P - 1) / 2 + P * i);
        }
        EXPECT_LE(relative_rms(pending->wait(), expected_states(ctx, c)), 1e-6) << name;
      }
}

TEST(StateSchedules, AreNotDisturbedByStatesThatWereDropped) {
  Context ctx;
  const StateCase dropped{Transition::kDense, Layout::kZigzag, ScanDirection::kForward, {0, 61}};
  const StateCase next{
      Transition::kDiagonal, Layout::kContiguous, ScanDirection::kBackward, {0, 9, 61}};
  for (const auto& [name, schedule] : strategies()) {
    GivenMaps maps = dropped.maps(ctx);
    schedule->carry(ctx, maps, dropped.plan(), dropped.direction);
    EXPECT_LE(relative_rms(carry(ctx, *schedule, next), expected_states(ctx, next)), 1e-6) << name;
  }
}

TEST(Zeco, RefusesASecondScanBeforeTheFirstIsWaitedFor) {
  Context ctx;
  const StateCase c{Transition::kScalar, Layout::kContiguous, ScanDirection::kForward, {0, 61}};
  const auto schedule = make_zeco(world());
  GivenMaps maps = c.maps(ctx);
  auto first = schedule->carry(ctx, maps, c.plan(), c.direction);
  expect_error(ErrorCode::kInternal, {"zeco"}, [&] { carry(ctx, *schedule, c); });
  first->wait();
  EXPECT_LE(relative_rms(carry(ctx, *schedule, c), expected_states(ctx, c)), 1e-6);
}

TEST(Zeco, RefusesToMakeNoBlocks) {
  for (int64_t num_blocks : {0, -1})
    expect_error(ErrorCode::kConfig, {"blocks", std::to_string(num_blocks)},
                 [&] { make_zeco(world(), {.num_blocks = num_blocks}); });
}

// Rank 0 of two, whose peer never answers.
class SilentPeer final : public Group::Backend {
 public:
  SilentPeer() : Backend(0, 2, std::make_shared<CommRecorder>()) {}
  std::shared_ptr<Backend> split(int, int) override { return std::make_shared<SilentPeer>(); }
  Work exchange(std::string_view label, std::vector<P2P>) override {
    throw Error(ErrorCode::kTimeout, {.what = std::string(label)});
  }
  Work reduce_scatter(std::string_view, const Tensor&, const Tensor&,
                      std::span<const int64_t>) override {
    return {};
  }
  Work all_reduce(std::string_view, const Tensor&, ReduceOp) override { return {}; }
};

TEST(Zeco, ThrowsInWaitWhatItsThreadThrew) {
  Context ctx;
  const auto schedule = make_zeco(Group(std::make_shared<SilentPeer>()));
  const SequencePlan plan = SequencePlan::make({0, 10}, Layout::kContiguous, 2, 0);
  for (ScanDirection direction : kDirections) {
    GivenMaps maps(make_summary(ctx, cut_of(plan, 0), Transition::kIdentity, DType::kF32),
                   direction);
    auto pending = schedule->carry(ctx, maps, plan, direction);
    expect_error(ErrorCode::kTimeout, {"zeco"}, [&] { pending->wait(); });
  }
}

TEST(StateSchedules, RefuseWhatIsNotASummaryOfThePlan) {
  Context ctx;
  const SequencePlan plan = SequencePlan::local({0, 4, 9});
  const auto schedule = make_lasp2(Group::self());
  auto refuse = [&](const char* named, Transition transition, Tensor m, Tensor b_NHKV) {
    expect_error(ErrorCode::kInternal, {named}, [&] {
      GivenMaps maps({transition, m, b_NHKV}, ScanDirection::kForward);
      schedule->carry(ctx, maps, plan, ScanDirection::kForward);
    });
  };
  auto fp32 = [&](Shape shape) { return ctx.zeros(std::move(shape), DType::kF32); };
  const Tensor b = fp32({0, 3, 4, 5});  // no document is cut
  refuse("summary b", Transition::kIdentity, {}, {});
  refuse("summary b", Transition::kIdentity, {}, fp32({1, 3, 4, 5}));
  refuse("summary b", Transition::kIdentity, {}, fp32({0, 3, 4}));
  refuse("bf16", Transition::kIdentity, {}, ctx.zeros(b.shape(), DType::kBF16));
  refuse("identity", Transition::kIdentity, fp32({0, 3}), b);
  refuse("summary m", Transition::kScalar, {}, b);
  refuse("summary m", Transition::kScalar, ctx.zeros({0, 3}, DType::kF64), b);
  refuse("summary m", Transition::kDiagonal, fp32({0, 3, 5}), b);
  refuse("summary m", Transition::kDense, fp32({0, 3, 4, 5}), b);
  refuse("summary m", Transition::kDense, fp32({0, 3, 4}), b);
}

TEST(LocalStates, AreNoneAndServeOneRankOnly) {
  Context ctx;
  const auto schedule = make_local_states();
  const SequencePlan plan = SequencePlan::local({0, 4, 5, 9});
  for (ScanDirection direction : kDirections) {
    GivenMaps maps(make_summary(ctx, cut_of(plan, 0), Transition::kDense, DType::kF64), direction);
    EXPECT_TRUE(bitwise_equal(schedule->carry(ctx, maps, plan, direction)->wait(),
                              ctx.zeros({0, kStateHeads, kStateKeys, kStateValues}, DType::kF64)));
  }
  const SequencePlan shared = SequencePlan::make({0, 4, 5, 9}, Layout::kContiguous, 2, 0);
  GivenMaps part(make_summary(ctx, cut_of(shared, 0), Transition::kDense, DType::kF64),
                 ScanDirection::kForward);
  expect_error(ErrorCode::kInternal, {"plan"},
               [&] { schedule->carry(ctx, part, shared, ScanDirection::kForward); });
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
