// Linear attention on any number of ranks, by every schedule, against the recurrence in fp64.
// ranks: 1 2 3 4 8
#include "attention/linear/linear_schedule.h"

#include <gtest/gtest.h>

#include <vector>

#include "attention/linear/decay_kernel.h"
#include "attention/linear/delta_kernel.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/linear_problem.h"
#include "tests/support/mpi_main.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::expect_error;
using testing::expect_near;
using testing::Gate;
using testing::random_tensor;
using testing::relative_rms;
using testing::TapeContext;
using testing::world;

using Problem = testing::LinearProblem;

constexpr int64_t kKeys = Problem::kKeySize, kValues = Problem::kValueSize;

SequencePlan plan_of(const Problem& problem) {
  return SequencePlan::make(problem.cu_seqlens, problem.layout, world().size(), world().rank());
}

std::vector<Tensor> run(const Problem& problem, const LinearSchedule& schedule, DType dtype,
                        const LinearInput& whole, const Tensor& whole_do_THV) {
  return run(problem, schedule, dtype, whole, whole_do_THV, plan_of(problem));
}

struct Strategy {
  const char* name;
  std::unique_ptr<LinearSchedule> schedule;
};

// Made once: All-Scan splits a group off.
const std::vector<Strategy>& strategies() {
  static const std::vector<Strategy> all = [] {
    std::vector<Strategy> made;
    made.push_back({"lasp", make_linear_carry(make_lasp(world()))});
    made.push_back({"lasp2", make_linear_carry(make_lasp2(world()))});
    made.push_back({"zeco", make_linear_carry(make_zeco(world(), {.num_blocks = 3}))});
    made.push_back({"ulysses", make_linear_ulysses(world())});
    return made;
  }();
  return all;
}

std::vector<Problem> problems() {
  std::vector<int64_t> random = {0};
  for (uint64_t d = 0; d < 12; ++d)
    random.push_back(random.back() +
                     (d % 4 == 1 ? 1 : static_cast<int64_t>(1 + uniform_index(3, 9, d, 90))));
  std::vector<Problem> all;
  for (const std::vector<int64_t>& cu_seqlens :
       {std::vector<int64_t>{0, 301}, random, std::vector<int64_t>{0, 5, 290, 291, 300},
        std::vector<int64_t>{0, 1, 3}})
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (Gate gate : {Gate::kNone, Gate::kConstant, Gate::kScalar, Gate::kVector})
        for (bool has_delta_rule : {false, true})
          all.push_back({cu_seqlens, layout, gate, has_delta_rule});
  return all;
}

TEST(LinearSchedule, EqualsTheRecurrenceForEveryScheduleLayoutAndGate) {
  for (const Problem& problem : problems()) {
    Context ctx;
    const LinearInput whole = whole_input(ctx, problem);
    const Tensor do_THV =
        random_tensor(ctx, {problem.cu_seqlens.back(), problem.num_heads, kValues}, 8);
    const SequencePlan plan = plan_of(problem);
    const std::vector<Tensor> expected = expected_results(ctx, problem, whole, do_THV, plan);
    for (const Strategy& strategy : strategies())
      for (DType dtype : {DType::kF64, DType::kF32}) {
        SCOPED_TRACE(
            fmt::format("{} of {}, {}", strategy.name, problem.label(), dtype_name(dtype)));
        expect_near(run(problem, *strategy.schedule, dtype, whole, do_THV), expected,
                    dtype == DType::kF64 ? 1e-11 : 1e-5);
      }
  }
}

TEST(LinearSchedule, RepeatsBitForBitAndSchedulesThatComposeMapsAgreeBitForBit) {
  Context ctx;
  const Problem problem{{0, 5, 290, 291, 300}, Layout::kZigzag, Gate::kScalar, true};
  const LinearInput whole = whole_input(ctx, problem);
  const Tensor do_THV = random_tensor(ctx, {300, problem.num_heads, kValues}, 8);
  std::vector<Tensor> composed;
  for (const Strategy& strategy : strategies()) {
    const bool composes =
        strategy.name == std::string("lasp2") || strategy.name == std::string("zeco");
    const std::vector<Tensor> once = run(problem, *strategy.schedule, DType::kF32, whole, do_THV);
    const std::vector<Tensor> again = run(problem, *strategy.schedule, DType::kF32, whole, do_THV);
    if (composes && composed.empty()) composed = once;
    for (size_t i = 0; i < once.size(); ++i) {
      EXPECT_TRUE(bitwise_equal(once[i], again[i])) << strategy.name << " result " << i;
      if (composes) {
        EXPECT_TRUE(bitwise_equal(once[i], composed[i])) << strategy.name << " result " << i;
      }
    }
  }
}

// Batches of 2 P chunks of the zigzag layout, each one of the kernels' grid, in which a document
// that is cut begins on the grid.
struct GridBatch {
  const char* name;
  std::vector<int64_t> cu_seqlens;
  bool is_cut_once;  // no document lies on more than two segments
};

std::vector<GridBatch> grid_batches() {
  constexpr int64_t kChunk = 64;
  const int64_t end = 2 * kChunk * world().size();
  std::vector<int64_t> cut_once = {0};
  for (int64_t begin = kChunk; begin < end; begin += 2 * kChunk) cut_once.push_back(begin);
  cut_once.push_back(end);
  return {{"one document", {0, end}, false},
          {"a long document between short ones",
           {0, 30, kChunk, end - kChunk, end - 47, end - 46, end},
           false},
          {"documents that are cut once", cut_once, true}};
}

TEST(LinearSchedule, LaspHasTheBitsOfOneRankOnItsChunkGridAndOthersWhereDocumentsAreCutOnce) {
  const auto one = make_linear_carry(make_local_states());
  for (const GridBatch& batch : grid_batches())
    for (Gate gate : {Gate::kNone, Gate::kConstant, Gate::kScalar, Gate::kVector})
      for (bool has_delta_rule : {false, true})
        for (DType dtype : {DType::kF32, DType::kF64}) {
          Context ctx;
          Problem problem{batch.cu_seqlens, Layout::kContiguous, gate, has_delta_rule};
          const LinearInput whole = whole_input(ctx, problem);
          const Tensor do_THV =
              random_tensor(ctx, {problem.cu_seqlens.back(), problem.num_heads, kValues}, 8);
          const std::vector<Tensor> expected =
              run(problem, *one, dtype, whole, do_THV, SequencePlan::local(problem.cu_seqlens));
          for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
            problem.layout = layout;
            const SequencePlan plan = plan_of(problem);
            for (const Strategy& strategy : strategies()) {
              if (strategy.name == std::string("ulysses")) continue;  // see LinearUlysses
              const bool has_bits = batch.is_cut_once || strategy.name == std::string("lasp");
              SCOPED_TRACE(fmt::format("{}, {}, {}, {}", strategy.name, batch.name, problem.label(),
                                       dtype_name(dtype)));
              const std::vector<Tensor> found =
                  run(problem, *strategy.schedule, dtype, whole, do_THV, plan);
              for (size_t i = 0; i < found.size(); ++i) {
                ASSERT_EQ(found[i].defined(), expected[i].defined());
                if (!found[i].defined()) continue;
                const Tensor own = plan.shard(ctx, expected[i]);
                if (has_bits)
                  EXPECT_TRUE(bitwise_equal(found[i], own)) << "result " << i;
                else
                  EXPECT_LE(relative_rms(found[i], own), dtype == DType::kF32 ? 1e-6 : 1e-14)
                      << "result " << i;
              }
            }
          }
        }
}

// Some ranks get heads from the middle of one key head's group to the middle of another's, some get
// none, and some so many that they travel in several groups.
std::vector<Problem> problems_of_many_heads() {
  std::vector<Problem> all;
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
    for (const auto& [G, H] :
         {std::pair<int64_t, int64_t>{9, 9}, {8, 16}, {3, 9}, {2, 10}, {1, 5}, {1, 1}})
      for (Gate gate : {Gate::kConstant, Gate::kScalar, Gate::kVector})
        for (bool has_delta_rule : {false, true})
          all.push_back({{0, 3, 80, 81, 150}, layout, gate, has_delta_rule, G, H});
  return all;
}

TEST(LinearUlysses, HasTheBitsOfOneRankButForTheGradientsOfSharedKeyHeads) {
  const auto one = make_linear_carry(make_local_states());
  const auto ulysses = make_linear_ulysses(world());
  for (const Problem& problem : problems_of_many_heads())
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(fmt::format("{} key heads, {} heads, {}, gate {}, {}", problem.num_key_heads,
                               problem.num_heads, layout_name(problem.layout),
                               static_cast<int>(problem.gate), dtype_name(dtype)));
      Context ctx;
      const LinearInput whole = whole_input(ctx, problem);
      const Tensor do_THV =
          random_tensor(ctx, {problem.cu_seqlens.back(), problem.num_heads, kValues}, 8);
      const std::vector<Tensor> expected =
          run(problem, *one, dtype, whole, do_THV, SequencePlan::local(problem.cu_seqlens));
      const std::vector<Tensor> found = run(problem, *ulysses, dtype, whole, do_THV);
      const SequencePlan plan = plan_of(problem);
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_EQ(found[i].defined(), expected[i].defined());
        if (!found[i].defined()) continue;
        // Leaves keep sums in fp32, which travelled in the dtype of their values.
        const bool is_key = i == 1 || i == 2, is_qkv = is_key || i == 3;
        const Tensor own = plan.shard(ctx, expected[i]);
        if (is_key && problem.num_key_heads < problem.num_heads)
          EXPECT_LE(relative_rms(found[i], own), dtype == DType::kF32 ? 1e-6 : 4e-3) << i;
        else if (is_qkv)
          EXPECT_TRUE(bitwise_equal(found[i].to(dtype), own.to(dtype))) << i;
        else
          EXPECT_TRUE(bitwise_equal(found[i], own)) << i;
      }
    }
}

TEST(LinearUlysses, SendsTheBytesOfItsFormulas) {
  const auto ulysses = make_linear_ulysses(world());
  const int64_t P = world().size(), r = world().rank();
  for (const Problem& problem : problems_of_many_heads())
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const int64_t G = problem.num_key_heads, H = problem.num_heads;
      Context ctx;
      const LinearInput whole = whole_input(ctx, problem);
      world().reset_stats();
      run(problem, *ulysses, dtype, whole,
          random_tensor(ctx, {problem.cu_seqlens.back(), H, kValues}, 8));
      // Rank p's state heads and the key heads that they read, head by head.
      auto state_heads = [&](int64_t p) { return H * (p + 1) / P - H * p / P; };
      auto key_heads = [&](int64_t p) {
        int64_t count = 0;
        for (int64_t h = H * p / P; h < H * (p + 1) / P; ++h)
          count += h == H * p / P || h / (H / G) != (h - 1) / (H / G);
        return count;
      };
      int64_t dealt = 0, num_groups = 4;
      for (int64_t p = 0; p < P; ++p) {
        dealt += key_heads(p);
        num_groups = std::min(num_groups, std::max(key_heads(p), int64_t{1}));
      }
      if (dealt > G) num_groups = 1;
      const int64_t e = dtype_size(dtype), a = 4, x = dealt > G ? a : e;
      const int64_t n = (problem.gate == Gate::kScalar   ? 1
                         : problem.gate == Gate::kVector ? kKeys
                                                         : 0) +
                        (problem.has_delta_rule ? 1 : 0);
      const SequencePlan plan = plan_of(problem);
      int64_t forward = 0, backward = 0;
      for (int64_t p = 0; p < P; ++p) {
        if (p == r) continue;
        const int64_t mine = plan.num_local_tokens(), theirs = plan.num_tokens(static_cast<int>(p));
        forward += mine * (2 * key_heads(p) * kKeys * e + state_heads(p) * (kValues * e + n * a)) +
                   theirs * state_heads(r) * kValues * e;
        backward +=
            mine * state_heads(p) * kValues * e +
            theirs * (2 * key_heads(r) * kKeys * x + state_heads(r) * (kValues * e + n * a));
      }
      const CommStats stats = world().stats();
      EXPECT_EQ(stats.sent_bytes("ulysses.fwd"), forward) << G << " key heads, " << H << " heads";
      EXPECT_EQ(stats.sent_bytes("ulysses.bwd"), backward) << G << " key heads, " << H << " heads";
      EXPECT_EQ(stats.total_sent_bytes(), forward + backward);
      // A group's tensors travel together: q, k, v and the gates, then o, and back.
      for (const char* label : {"ulysses.fwd", "ulysses.bwd"})
        EXPECT_EQ(stats.by_label.at(label).num_calls, 2 * num_groups)
            << G << " key heads, " << H << " heads";
    }
}

// Notes how many exchanges had been started whenever a group of heads is computed.
class NotingKernel final : public LinearKernel {
 public:
  mutable std::vector<int64_t> forward_calls, backward_calls;

  std::unique_ptr<LinearForward> forward(Context& ctx, const LinearInput& input,
                                         std::span<const Segment> segments,
                                         std::span<const int64_t> cut) const override {
    forward_calls.push_back(world().stats().by_label.at("ulysses.fwd").num_calls);
    return kernel_.forward(ctx, input, segments, cut);
  }
  std::unique_ptr<LinearBackward> backward(Context& ctx, const LinearInput& input,
                                           std::span<const Segment> segments,
                                           std::span<const int64_t> cut, const Tensor& states_NHKV,
                                           const Tensor& do_THV) const override {
    backward_calls.push_back(world().stats().by_label.at("ulysses.bwd").num_calls);
    return kernel_.backward(ctx, input, segments, cut, states_NHKV, do_THV);
  }

 private:
  DecayKernel kernel_;
};

TEST(LinearUlysses, ComputesAGroupOfHeadsWhileItsNeighboursTravel) {
  const int64_t H = 3 * world().size();  // three groups of one head
  const Problem problem{{0, 64}, Layout::kContiguous, Gate::kNone, false, H, H};
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const LinearInput whole = whole_input(ctx, problem);
  const SequencePlan plan = plan_of(problem);
  auto leaf = [&](const Tensor& x) { return Variable::leaf(plan.shard(ctx, x)); };
  const NotingKernel kernel;
  const auto ulysses = make_linear_ulysses(world());
  world().reset_stats();
  const Variable o_THV = ulysses->attend(ctx, kernel,
                                         {.q_TGK = leaf(whole.q_TGK),
                                          .k_TGK = leaf(whole.k_TGK),
                                          .v_THV = leaf(whole.v_THV),
                                          .gate = {},
                                          .beta_TH = {},
                                          .scale = 1},
                                         plan);
  recorded.tape.backward(ctx, o_THV, plan.shard(ctx, random_tensor(ctx, {64, H, kValues}, 8)));
  // The inputs of this group and the next, and o of those before; then do, and the gradients.
  EXPECT_EQ(kernel.forward_calls, (std::vector<int64_t>{2, 4, 5}));
  EXPECT_EQ(kernel.backward_calls, (std::vector<int64_t>{2, 4, 5}));
}

TEST(LinearUlysses, RefusesTensorsThatDoNotFitBeforeItSends) {
  Context ctx;
  const Problem problem{{0, 30}, Layout::kContiguous, Gate::kScalar, true};
  LinearInput whole = whole_input(ctx, problem);
  whole.beta_TH = whole.beta_TH.slice(1, 0, 3).contiguous();
  world().reset_stats();
  expect_error(ErrorCode::kInternal, {"beta"}, [&] {
    run(problem, *make_linear_ulysses(world()), DType::kF32, whole,
        random_tensor(ctx, {30, problem.num_heads, kValues}, 8));
  });
  EXPECT_EQ(world().stats().total_sent_bytes(), 0);
}

TEST(LinearSchedule, SavesStatesForDocumentsThatAreCutAndNoOthers) {
  const int64_t P = world().size();
  std::vector<int64_t> whole_documents = {0};
  for (int64_t d = 0; d < 64 * P; ++d) whole_documents.push_back(d + 1);
  for (const auto& [cu_seqlens, num_states] :
       {std::pair{whole_documents, int64_t{0}},
        std::pair{std::vector<int64_t>{0, 64 * P}, P > 1 ? int64_t{1} : int64_t{0}}})
    for (const Strategy& strategy : strategies()) {
      TapeContext recorded;
      Context& ctx = recorded.ctx;
      const Problem problem{cu_seqlens, Layout::kContiguous, Gate::kScalar, true};
      const LinearInput whole = whole_input(ctx, problem);
      const SequencePlan plan = plan_of(problem);
      auto leaf = [&](const Tensor& x) { return Variable::leaf(plan.shard(ctx, x)); };
      const DeltaKernel kernel;
      strategy.schedule->attend(ctx, kernel,
                                {.q_TGK = leaf(whole.q_TGK),
                                 .k_TGK = leaf(whole.k_TGK),
                                 .v_THV = leaf(whole.v_THV),
                                 .gate = leaf(whole.gate),
                                 .beta_TH = leaf(whole.beta_TH),
                                 .scale = 1},
                                plan);
      int64_t saved = 0;
      recorded.tape.visit_saved([&](std::string_view, std::string_view name, Tensor& tensor) {
        if (name == "states_NHKV") saved += tensor.numel();
      });
      const bool carries = strategy.name != std::string("ulysses");
      EXPECT_EQ(saved, carries ? num_states * problem.num_heads * kKeys * kValues : 0)
          << strategy.name;
    }
}

TEST(LinearSchedule, TokenChangesOnlyLaterPositionsOfItsDocument) {
  const Problem problem{{0, 40, 160, 200}, Layout::kZigzag, Gate::kVector, true};
  constexpr int64_t kChanged = 75;  // in the second document
  Context ctx;
  const LinearInput whole = whole_input(ctx, problem);
  const Tensor do_THV = random_tensor(ctx, {200, problem.num_heads, kValues}, 8);
  const SequencePlan plan = plan_of(problem);
  for (const Strategy& strategy : strategies()) {
    const Tensor before = run(problem, *strategy.schedule, DType::kF32, whole, do_THV)[0];
    LinearInput changed = whole;
    changed.v_THV = whole.v_THV.clone();
    changed.v_THV.data<double>()[kChanged * problem.num_heads * kValues] += 1;
    const Tensor after = run(problem, *strategy.schedule, DType::kF32, changed, do_THV)[0];
    for (const Segment& segment : plan.local_segments()) {
      for (int64_t i = 0; i < segment.length; ++i) {
        const int64_t token = segment.global_begin + i;
        const bool same = bitwise_equal(before.slice(0, segment.slot + i, 1),
                                        after.slice(0, segment.slot + i, 1));
        const bool may_change = token >= kChanged && token < 160;
        EXPECT_TRUE(same || may_change) << strategy.name << " token " << token;
        EXPECT_FALSE(same && token == kChanged) << strategy.name;
      }
    }
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
