// Problems for linear schedules: a whole batch with random tensors, its results by a schedule on
// all ranks, and the comparison with the recurrence.
#pragma once

#include <string>
#include <vector>

#include "attention/linear/linear_schedule.h"
#include "tests/support/linear_kernel_check.h"

namespace longship::testing {

struct LinearProblem {
  static constexpr int64_t kKeySize = 6, kValueSize = 9;

  std::vector<int64_t> cu_seqlens;
  Layout layout;
  Gate gate;
  bool has_delta_rule;
  int64_t num_key_heads = 2, num_heads = 4;

  std::string label() const;
};

// The whole batch in fp64: unit keys, beta in (0, 2), gates from almost nothing to -5.
LinearInput whole_input(Context& ctx, const LinearProblem& problem);

// The output and the gradients of the tokens of `plan`'s rank, in the order of LinearGradients;
// undefined for what a problem has not. Collective over the group of `schedule`.
std::vector<Tensor> run(const LinearProblem& problem, const LinearSchedule& schedule, DType dtype,
                        const LinearInput& whole, const Tensor& whole_do_THV,
                        const SequencePlan& plan);

// The same by the recurrence, in fp64.
std::vector<Tensor> expected_results(const Context& ctx, const LinearProblem& problem,
                                     const LinearInput& whole, const Tensor& whole_do_THV,
                                     const SequencePlan& plan);

// Fails the test unless the same results are defined, and each is near up to this bound on
// relative_rms().
void expect_near(const std::vector<Tensor>& found, const std::vector<Tensor>& expected,
                 double bound);

}  // namespace longship::testing
