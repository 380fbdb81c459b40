#include "runtime/autograd/recompute.h"

namespace longship {
namespace {

struct RecomputeNode final : Node {
  struct Saved {
    Tensor x;
  } saved;
  BlockFunction block;

  const char* name() const override { return "recompute"; }

  void backward(Context& ctx) override {
    Tape tape;
    Context inner = ctx;
    inner.tape = &tape;
    // The block adds to the gradient of the input itself, so sums meet in the same order and dtype
    // as without recomputation.
    const Variable y = block(inner, Variable(saved.x, input(0)));
    if (y.requires_grad()) tape.backward(inner, y, grad_output(ctx));
  }

  void visit_saved(const SavedVisitor& visit) override { visit("x", saved.x); }
};

}  // namespace

Variable recompute(Context& ctx, const BlockFunction& block, const Variable& x) {
  if (ctx.tape == nullptr) return block(ctx, x);
  Context inner = ctx;
  inner.tape = nullptr;
  const Variable y = block(inner, x);
  auto node = std::make_unique<RecomputeNode>();
  node->saved.x = x.value();
  node->block = block;
  return record(ctx, "recompute", y.value(), std::move(node), {&x});
}

}  // namespace longship
