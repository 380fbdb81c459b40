#include "runtime/ops/add.h"

#include "runtime/device_dispatch.h"
#include "runtime/ops/add_elements.h"

namespace longship {
namespace {

struct AddNode final : Node {
  const char* name() const override { return "add"; }

  void backward(Context& ctx) override {
    const Tensor dy = grad_output(ctx);
    if (input(0)) input(0)->add(ctx, dy);
    if (input(1)) input(1)->add(ctx, dy);
  }

  void visit_saved(const SavedVisitor&) override {}
};

}  // namespace

Variable add(Context& ctx, const Variable& a, const Variable& b) {
  LONGSHIP_CHECK(a.shape() == b.shape() && a.dtype() == b.dtype(), "add of {} {} and {} {}",
                 dtype_name(a.dtype()), shape_string(a.shape()), dtype_name(b.dtype()),
                 shape_string(b.shape()));
  const Tensor left = a.value().contiguous();
  const Tensor right = b.value().contiguous();
  const Tensor y = ctx.empty(a.shape(), a.dtype());
  require_one_device("add", {&left, &right, &y});
  add_elements(ctx, left, right, y);
  std::unique_ptr<Node> node;
  if (is_recording(ctx, {&a, &b})) node = std::make_unique<AddNode>();
  return record(ctx, "add", y, std::move(node), {&a, &b});
}

}  // namespace longship
