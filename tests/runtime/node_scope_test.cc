#include <gtest/gtest.h>

#include <cmath>

#include "runtime/autograd/recompute.h"
#include "runtime/autograd/tape.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"

namespace longship {
namespace {

// Passes its input through and reports, or fails, from the backward.
struct ReportingNode final : Node {
  std::string* seen = nullptr;
  bool poison = false;

  const char* name() const override { return "reporting"; }
  void backward(Context& ctx) override {
    *seen = ctx.scope;
    const Tensor dx = grad_output(ctx).clone();
    if (poison) dx.data<double>()[1] = std::nan("");
    input(0)->add(ctx, dx);
  }
  void visit_saved(const SavedVisitor&) override {}
};

Variable reporting(Context& ctx, const Variable& x, std::string* seen, bool poison = false) {
  std::unique_ptr<ReportingNode> node;
  if (is_recording(ctx, {&x})) {
    node = std::make_unique<ReportingNode>();
    node->seen = seen;
    node->poison = poison;
  }
  return record(ctx, "reporting", x.value(), std::move(node), {&x});
}

TEST(NodeScope, OfTheForwardIsInForceInTheBackward) {
  testing::TapeContext recorded;
  Context& ctx = recorded.ctx;
  std::string first, second;
  Variable y = Variable::leaf(testing::random_tensor(ctx, {2}, 1));
  {
    Scope scope(ctx, "layers.0");
    y = reporting(ctx, y, &first);
  }
  {
    Scope scope(ctx, "layers.1");
    y = recompute(
        ctx,
        [&](Context& inner, const Variable& x) {
          Scope mlp(inner, "mlp");
          return reporting(inner, x, &second);
        },
        y);
  }
  ctx.scope = "step";
  recorded.tape.backward(ctx, y, ctx.zeros({2}, DType::kF64));
  EXPECT_EQ(first, "layers.0");
  EXPECT_EQ(second, "layers.1.mlp");
  EXPECT_EQ(ctx.scope, "step");
}

TEST(NodeScope, NamesTheFirstGradientThatIsNotFinite) {
  testing::TapeContext recorded;
  Context& ctx = recorded.ctx;
  ctx.check_finite = true;
  std::string seen;
  Variable y = Variable::leaf(testing::random_tensor(ctx, {2}, 2));
  {
    Scope scope(ctx, "layers.7.mixer");
    y = reporting(ctx, y, &seen, /*poison=*/true);
  }
  testing::expect_error(ErrorCode::kNonFinite,
                        {"layers.7.mixer: gradient of an input of op `reporting`", "element 1"},
                        [&] { recorded.tape.backward(ctx, y, ctx.zeros({2}, DType::kF64)); });
  EXPECT_EQ(ctx.scope, "");
}

}  // namespace
}  // namespace longship
