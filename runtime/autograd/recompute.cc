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
    const Variable x(saved.x, std::make_shared<Gradient>(saved.x.shape(), saved.x.dtype()));
    const Variable y = block(inner, x);
    if (!y.requires_grad()) return;
    tape.backward(inner, y, grad_output(ctx));
    if (input(0) && x.gradient()->defined()) input(0)->add(ctx, x.gradient()->take());
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
