#include "runtime/ops/reshape.h"

namespace longship {
namespace {

struct ReshapeNode final : Node {
  Shape x_shape;

  const char* name() const override { return "reshape"; }

  void backward(Context& ctx) override {
    input(0)->add(ctx, grad_output(ctx).contiguous().reshape(x_shape));
  }

  void visit_saved(const SavedVisitor&) override {}
};

}  // namespace

Variable reshape(Context& ctx, const Variable& x, Shape shape) {
  std::unique_ptr<ReshapeNode> node;
  if (is_recording(ctx, {&x})) {
    node = std::make_unique<ReshapeNode>();
    node->x_shape = x.shape();
  }
  return record(ctx, "reshape", x.value().contiguous().reshape(std::move(shape)), std::move(node),
                {&x});
}

}  // namespace longship
