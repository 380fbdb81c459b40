#include "runtime/autograd/backward_hook.h"

namespace longship {
namespace {

struct HookNode final : Node {
  std::function<void(Context&)> passed;

  const char* name() const override { return "backward_hook"; }

  void backward(Context& ctx) override {
    input(0)->add(ctx, grad_output(ctx));
    passed(ctx);
  }

  void visit_saved(const SavedVisitor&) override {}
};

}  // namespace

Variable backward_hook(Context& ctx, const Variable& x, std::function<void(Context&)> passed) {
  std::unique_ptr<HookNode> node;
  if (is_recording(ctx, {&x})) {
    node = std::make_unique<HookNode>();
    node->passed = std::move(passed);
  }
  return record(ctx, "backward_hook", x.value(), std::move(node), {&x});
}

}  // namespace longship
