#include "attention/parallel_mixers.h"

#include <gtest/gtest.h>

#include "parallel/sequence_plan.h"
#include "runtime/ops/add.h"
#include "runtime/ops/scale.h"
#include "tests/support/gradient_check.h"

namespace longship {
namespace {

using testing::random_tensor;

// y = factor x.
class TimesFactor final : public Mixer {
 public:
  explicit TimesFactor(double factor) : factor_(factor) {}
  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan&,
                   const Variable& residual_TE) override {
    const Variable y_TE = scale(ctx, x_TE, factor_);
    return residual_TE.defined() ? add(ctx, residual_TE, y_TE) : y_TE;
  }

 private:
  double factor_;
};

std::vector<ParallelMixers::Branch> branches() {
  std::vector<ParallelMixers::Branch> made;
  made.push_back({std::make_unique<TimesFactor>(3), 0.5, 2});
  made.push_back({std::make_unique<TimesFactor>(-1), 1, 0.25});
  made.push_back({std::make_unique<TimesFactor>(7)});
  return made;
}

TEST(ParallelMixers, AddTheirMultipliedOutputs) {
  Context ctx;
  const SequencePlan plan = SequencePlan::local({0, 5});
  ParallelMixers mixers(branches());
  const Tensor x_TE = random_tensor(ctx, {5, 3}, 1);
  const Tensor residual_TE = random_tensor(ctx, {5, 3}, 3);
  const Tensor y_TE = mixers.forward(ctx, x_TE, plan, {}).value();
  const Tensor onto_TE = mixers.forward(ctx, x_TE, plan, residual_TE).value();
  for (int64_t i = 0; i < 15; ++i) {
    const double sum = (0.5 * 3 * 2 - 0.25 + 7) * x_TE.data<double>()[i];
    EXPECT_NEAR(y_TE.data<double>()[i], sum, 1e-14);
    EXPECT_NEAR(onto_TE.data<double>()[i], residual_TE.data<double>()[i] + sum, 1e-14);
  }
}

TEST(ParallelMixers, GradientsEqualCentralDifferences) {
  Context ctx;
  const SequencePlan plan = SequencePlan::local({0, 5});
  ParallelMixers mixers(branches());
  testing::check_gradients(
      [&](Context& c, const std::vector<Variable>& inputs) {
        return std::vector<Variable>{mixers.forward(c, inputs[0], plan, inputs[1])};
      },
      {random_tensor(ctx, {5, 3}, 2), random_tensor(ctx, {5, 3}, 3)});
}

TEST(ParallelMixers, NeedABranch) {
  EXPECT_THROW(ParallelMixers({}), Error);
}

}  // namespace
}  // namespace longship
