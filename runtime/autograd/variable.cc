#include "runtime/autograd/variable.h"

#include <utility>

#include "runtime/ops/add_elements.h"

namespace longship {

Tensor Gradient::converted(const Tensor& contribution) const {
  LONGSHIP_CHECK(contribution.shape() == shape_, "gradient of shape {} for a tensor of shape {}",
                 shape_string(contribution.shape()), shape_string(shape_));
  return contribution.to(dtype_).contiguous();
}

void Gradient::add(Context& ctx, Tensor contribution) {
  contribution = converted(contribution);
  if (!sum().defined()) {
    sum_ = std::move(contribution);
    return;
  }
  const Update update = begin_update(ctx);
  add_elements(ctx, update.before, contribution, update.after);
}

void Gradient::add_later(Context& ctx, std::function<Tensor()> arrive) {
  if (defined()) return add(ctx, arrive());
  arrive_ = std::move(arrive);
}

void Gradient::settle() const {
  sum_ = converted(std::exchange(arrive_, nullptr)());
}

Gradient::Update Gradient::begin_update(Context& ctx) {
  const bool in_place = sum().defined() && sum_.is_unique();
  const Tensor after = in_place ? sum_ : ctx.empty(shape_, dtype_);
  return {std::exchange(sum_, after), after};
}

Tensor& Gradient::accumulate_into(Context& ctx) {
  if (!sum().defined()) {
    sum_ = ctx.zeros(shape_, dtype_);
  } else if (!sum_.is_unique()) {
    sum_ = sum_.clone();
  }
  return sum_;
}

Variable Variable::leaf(Tensor value) {
  auto gradient = std::make_shared<Gradient>(value.shape(), accumulator_dtype(value.dtype()));
  return Variable(std::move(value), std::move(gradient));
}

}  // namespace longship
