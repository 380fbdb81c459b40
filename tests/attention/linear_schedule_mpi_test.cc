// Linear attention on any number of ranks, by every schedule, against the recurrence in fp64.
// ranks: 1 2 3 4 8
#include "attention/linear/linear_schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "attention/linear/decay_kernel.h"
#include "attention/linear/delta_kernel.h"
#include "runtime/random.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_linear.h"

namespace longship {
namespace {

using testing::naive_linear;
using testing::NaiveLinear;
using testing::random_tensor;
using testing::relative_rms;
using testing::TapeContext;
using testing::world;

enum class Gate { kNone, kScalar, kVector };

struct Problem {
  std::vector<int64_t> cu_seqlens;
  Layout layout;
  Gate gate;
  bool has_delta_rule;
};

constexpr int64_t kQueryHeads = 2, kStateHeads = 4, kKeys = 6, kValues = 9;

// The whole batch in fp64: unit keys, beta in (0, 2), gates from almost nothing to -5.
LinearInput whole_input(Context& ctx, const Problem& problem) {
  const int64_t tokens = problem.cu_seqlens.back();
  LinearInput input{.q_TGK = random_tensor(ctx, {tokens, kQueryHeads, kKeys}, 1),
                    .k_TGK = random_tensor(ctx, {tokens, kQueryHeads, kKeys}, 2),
                    .v_THV = random_tensor(ctx, {tokens, kStateHeads, kValues}, 3),
                    .gate = {},
                    .beta_TH = {},
                    .scale = 1 / std::sqrt(static_cast<double>(kKeys))};
  for (int64_t row = 0; row < tokens * kQueryHeads; ++row) {
    double* key = input.k_TGK.data<double>() + row * kKeys;
    double square = 0;
    for (int64_t i = 0; i < kKeys; ++i) square += key[i] * key[i];
    for (int64_t i = 0; i < kKeys; ++i) key[i] /= std::sqrt(square);
  }
  if (problem.has_delta_rule) {
    input.beta_TH = random_tensor(ctx, {tokens, kStateHeads}, 4);
    double* beta = input.beta_TH.data<double>();
    for (int64_t i = 0; i < input.beta_TH.numel(); ++i) beta[i] = 2 / (1 + std::exp(-beta[i]));
  }
  if (problem.gate != Gate::kNone) {
    Shape shape = {tokens, kStateHeads};
    if (problem.gate == Gate::kVector) shape.push_back(kKeys);
    input.gate = random_tensor(ctx, shape, 5);
    double* gate = input.gate.data<double>();
    for (int64_t i = 0; i < input.gate.numel(); ++i)
      gate[i] = i % 17 == 0 ? -5 : -0.3 * gate[i] * gate[i] - 1e-4;
  }
  return input;
}

// Output and gradients of this rank's tokens, in the order of LinearGradients.
std::vector<Tensor> run(const Problem& problem, const LinearSchedule& schedule, DType dtype,
                        const LinearInput& whole, const Tensor& whole_do_THV) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const SequencePlan plan =
      SequencePlan::make(problem.cu_seqlens, problem.layout, world().size(), world().rank());
  auto leaf = [&](const Tensor& tensor) {
    return tensor.defined() ? Variable::leaf(plan.shard(ctx, tensor).to(dtype)) : Variable();
  };
  const LinearAttentionInput input{.q_TGK = leaf(whole.q_TGK),
                                   .k_TGK = leaf(whole.k_TGK),
                                   .v_THV = leaf(whole.v_THV),
                                   .gate = leaf(whole.gate),
                                   .beta_TH = leaf(whole.beta_TH),
                                   .scale = whole.scale};
  const DeltaKernel delta;
  const DecayKernel decay;
  const LinearKernel& kernel =
      problem.has_delta_rule ? static_cast<const LinearKernel&>(delta) : decay;
  const Variable o_THV = schedule.attend(ctx, kernel, input, plan);
  std::vector<Tensor> results = {o_THV.value()};
  recorded.tape.backward(ctx, o_THV, plan.shard(ctx, whole_do_THV).to(dtype));
  for (const Variable* variable :
       {&input.q_TGK, &input.k_TGK, &input.v_THV, &input.gate, &input.beta_TH})
    results.push_back(variable->defined() ? variable->gradient()->sum() : Tensor());
  return results;
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
      for (Gate gate : {Gate::kNone, Gate::kScalar, Gate::kVector})
        for (bool has_delta_rule : {false, true})
          all.push_back({cu_seqlens, layout, gate, has_delta_rule});
  return all;
}

TEST(LinearSchedule, EqualsTheRecurrenceForEveryScheduleLayoutAndGate) {
  const char* const names[] = {"o", "dq", "dk", "dv", "dgate", "dbeta"};
  for (const Problem& problem : problems()) {
    Context ctx;
    const LinearInput whole = whole_input(ctx, problem);
    const Tensor do_THV = random_tensor(ctx, {problem.cu_seqlens.back(), kStateHeads, kValues}, 8);
    const SequencePlan one = SequencePlan::local(problem.cu_seqlens);
    const NaiveLinear naive =
        naive_linear(ctx, whole, one.local_segments(),
                     {.states_NHKV = {}, .do_THV = do_THV, .dstates_NHKV = {}});
    const Tensor expected[] = {naive.o_THV,
                               naive.gradients.dq_TGK,
                               naive.gradients.dk_TGK,
                               naive.gradients.dv_THV,
                               naive.gradients.dgate,
                               naive.gradients.dbeta_TH};
    const SequencePlan plan =
        SequencePlan::make(problem.cu_seqlens, problem.layout, world().size(), world().rank());
    for (const Strategy& strategy : strategies()) {
      for (DType dtype : {DType::kF64, DType::kF32}) {
        const std::vector<Tensor> found = run(problem, *strategy.schedule, dtype, whole, do_THV);
        for (size_t i = 0; i < found.size(); ++i) {
          ASSERT_EQ(found[i].defined(), expected[i].defined()) << names[i];
          if (!found[i].defined()) continue;
          const double error = relative_rms(found[i], plan.shard(ctx, expected[i]));
          EXPECT_LE(error, dtype == DType::kF64 ? 1e-11 : 1e-5)
              << strategy.name << " " << layout_name(problem.layout)
              << (problem.has_delta_rule ? " delta rule" : " decay") << " gate "
              << static_cast<int>(problem.gate) << " " << dtype_name(dtype) << " " << names[i]
              << " of " << problem.cu_seqlens.size() - 1 << " documents";
        }
      }
    }
  }
}

TEST(LinearSchedule, RepeatsBitForBitAndSchedulesAgreeBitForBit) {
  Context ctx;
  const Problem problem{{0, 5, 290, 291, 300}, Layout::kZigzag, Gate::kScalar, true};
  const LinearInput whole = whole_input(ctx, problem);
  const Tensor do_THV = random_tensor(ctx, {300, kStateHeads, kValues}, 8);
  const std::vector<Tensor> first =
      run(problem, *strategies()[0].schedule, DType::kF32, whole, do_THV);
  for (const Strategy& strategy : strategies()) {
    const std::vector<Tensor> again = run(problem, *strategy.schedule, DType::kF32, whole, do_THV);
    for (size_t i = 0; i < first.size(); ++i)
      EXPECT_EQ(
          std::memcmp(first[i].raw(), again[i].raw(), static_cast<size_t>(first[i].num_bytes())), 0)
          << strategy.name << " result " << i;
  }
}

TEST(LinearSchedule, TokenChangesOnlyLaterPositionsOfItsDocument) {
  const Problem problem{{0, 40, 160, 200}, Layout::kZigzag, Gate::kVector, true};
  constexpr int64_t kChanged = 75;  // in the second document
  Context ctx;
  const LinearInput whole = whole_input(ctx, problem);
  const Tensor do_THV = random_tensor(ctx, {200, kStateHeads, kValues}, 8);
  const SequencePlan plan =
      SequencePlan::make(problem.cu_seqlens, problem.layout, world().size(), world().rank());
  for (const Strategy& strategy : strategies()) {
    const Tensor before = run(problem, *strategy.schedule, DType::kF32, whole, do_THV)[0];
    LinearInput changed = whole;
    changed.v_THV = whole.v_THV.clone();
    changed.v_THV.data<double>()[kChanged * kStateHeads * kValues] += 1;
    const Tensor after = run(problem, *strategy.schedule, DType::kF32, changed, do_THV)[0];
    for (const Segment& segment : plan.local_segments()) {
      for (int64_t i = 0; i < segment.length; ++i) {
        const int64_t token = segment.global_begin + i;
        const bool same =
            std::memcmp(before.slice(0, segment.slot + i, 1).raw(),
                        after.slice(0, segment.slot + i, 1).raw(),
                        static_cast<size_t>(kStateHeads * kValues) * sizeof(float)) == 0;
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
