#include "tests/support/linear_problem.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/linear/decay_kernel.h"
#include "attention/linear/delta_kernel.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_linear.h"

namespace longship::testing {

std::string LinearProblem::label() const {
  return fmt::format("{}, {}, gate {}, {} key heads, {} heads, cu_seqlens {}",
                     has_delta_rule ? "delta rule" : "decay", layout_name(layout),
                     static_cast<int>(gate), num_key_heads, num_heads, fmt::join(cu_seqlens, ","));
}

LinearInput whole_input(Context& ctx, const LinearProblem& problem) {
  constexpr int64_t kKeys = LinearProblem::kKeySize;
  const int64_t tokens = problem.cu_seqlens.back();
  LinearInput input{
      .q_TGK = random_tensor(ctx, {tokens, problem.num_key_heads, kKeys}, 1),
      .k_TGK = random_tensor(ctx, {tokens, problem.num_key_heads, kKeys}, 2),
      .v_THV = random_tensor(ctx, {tokens, problem.num_heads, LinearProblem::kValueSize}, 3),
      .gate = {},
      .beta_TH = {},
      .scale = 1 / std::sqrt(static_cast<double>(kKeys))};
  for (int64_t row = 0; row < tokens * problem.num_key_heads; ++row) {
    double* key = input.k_TGK.data<double>() + row * kKeys;
    double square = 0;
    for (int64_t i = 0; i < kKeys; ++i) square += key[i] * key[i];
    for (int64_t i = 0; i < kKeys; ++i) key[i] /= std::sqrt(square);
  }
  if (problem.has_delta_rule) {
    input.beta_TH = random_tensor(ctx, {tokens, problem.num_heads}, 4);
    double* beta = input.beta_TH.data<double>();
    for (int64_t i = 0; i < input.beta_TH.numel(); ++i) beta[i] = 2 / (1 + std::exp(-beta[i]));
  }
  if (problem.gate != Gate::kNone) {
    Shape shape = {tokens, problem.num_heads};
    if (problem.gate == Gate::kVector) shape.push_back(kKeys);
    if (problem.gate == Gate::kConstant) shape = {problem.num_heads};
    input.gate = random_tensor(ctx, shape, 5);
    double* gate = input.gate.data<double>();
    for (int64_t i = 0; i < input.gate.numel(); ++i)
      gate[i] = i % 17 == 0 ? -5 : -0.3 * gate[i] * gate[i] - 1e-4;
  }
  return input;
}

std::vector<Tensor> run(const LinearProblem& problem, const LinearSchedule& schedule, DType dtype,
                        const LinearInput& whole, const Tensor& whole_do_THV,
                        const SequencePlan& plan) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  auto leaf = [&](const Tensor& tensor) {
    return tensor.defined() ? Variable::leaf(plan.shard(ctx, tensor).to(dtype)) : Variable();
  };
  auto gate_leaf = [&](const Tensor& gate) {
    const DType sums = accumulator_dtype(dtype);
    if (!gate.defined()) return Variable();
    return gate.rank() == 1 ? Variable(gate.to(sums))
                            : Variable::leaf(plan.shard(ctx, gate).to(sums));
  };
  const LinearAttentionInput input{.q_TGK = leaf(whole.q_TGK),
                                   .k_TGK = leaf(whole.k_TGK),
                                   .v_THV = leaf(whole.v_THV),
                                   .gate = gate_leaf(whole.gate),
                                   .beta_TH = gate_leaf(whole.beta_TH),
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
    results.push_back(variable->requires_grad() ? variable->gradient()->sum() : Tensor());
  return results;
}

std::vector<Tensor> expected_results(const Context& ctx, const LinearProblem& problem,
                                     const LinearInput& whole, const Tensor& whole_do_THV,
                                     const SequencePlan& plan) {
  const SequencePlan one = SequencePlan::local(problem.cu_seqlens);
  const NaiveLinear naive =
      naive_linear(ctx, whole, one.local_segments(),
                   {.states_NHKV = {}, .do_THV = whole_do_THV, .dstates_NHKV = {}});
  const LinearGradients& gradients = naive.gradients;
  std::vector<Tensor> own;
  for (const Tensor& result : {naive.o_THV, gradients.dq_TGK, gradients.dk_TGK, gradients.dv_THV,
                               gradients.dgate, gradients.dbeta_TH})
    own.push_back(result.defined() ? plan.shard(ctx, result) : Tensor());
  return own;
}

void expect_near(const std::vector<Tensor>& found, const std::vector<Tensor>& expected,
                 double bound) {
  const char* const names[] = {"o", "dq", "dk", "dv", "dgate", "dbeta"};
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].defined(), expected[i].defined()) << names[i];
    if (!found[i].defined()) continue;
    EXPECT_LE(relative_rms(found[i], expected[i]), bound) << names[i];
  }
}

}  // namespace longship::testing
