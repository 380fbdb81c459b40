#include "runtime/autograd/recompute.h"

namespace longship {
namespace {

struct RecomputeNode final : Node {
  struct Saved {
    Tensor x;
    KeptOutputs kept;
  } saved;
  BlockFunction block;

  RecomputeNode(Saved of_first_run, BlockFunction function)
      : saved(std::move(of_first_run)), block(std::move(function)) {}

  const char* name() const override { return "recompute"; }

  void backward(Context& ctx) override {
    Tape tape;
    Context inner = ctx;
    inner.tape = &tape;
    inner.kept = &saved.kept;
    // The block adds to the gradient of the input itself, so sums meet in the same order and dtype
    // as without recomputation.
    const Variable y = block(inner, Variable(saved.x, input(0)));
    inner.kept = nullptr;
    if (y.requires_grad()) tape.backward(inner, y, grad_output(ctx));
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x", saved.x);
    saved.kept.visit(visit);
  }
};

}  // namespace

Variable recompute(Context& ctx, const BlockFunction& block, const Variable& x, Recompute level) {
  if (ctx.tape == nullptr || level == Recompute::kNone) return block(ctx, x);
  auto node = std::make_unique<RecomputeNode>(
      RecomputeNode::Saved{.x = x.value(), .kept = KeptOutputs(level, ctx.kept)}, block);
  Context inner = ctx;
  inner.tape = nullptr;
  inner.kept = &node->saved.kept;
  const Variable y = block(inner, x);
  node->saved.kept.begin_second_run(y.value());
  return record(ctx, "recompute", y.value(), std::move(node), {&x});
}

}  // namespace longship
