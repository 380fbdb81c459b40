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
  if (!sum().defined() && !keeps_place_) {
    sum_ = std::move(contribution);
    return;
  }
  const Update update = begin_update(ctx);
  if (update.before.defined())
    add_elements(ctx, update.before, contribution, update.after);
  else
    update.after.copy_from(contribution);
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
  const Tensor after = in_place ? sum_ : new_sum(ctx);
  return {std::exchange(sum_, after), after};
}

Tensor& Gradient::accumulate_into(Context& ctx) {
  if (!sum().defined()) {
    sum_ = new_sum(ctx);
    sum_.fill_zero();
  } else if (!sum_.is_unique()) {
    sum_ = sum_.clone();
  }
  return sum_;
}

Tensor Gradient::new_sum(Context& ctx) {
  return place_.defined() ? std::exchange(place_, Tensor()) : ctx.empty(shape_, dtype_);
}

void Gradient::keep_place(bool keep) {
  keeps_place_ = keep;
  if (!keep) place_ = Tensor();
}

const void* Gradient::place() const {
  const Tensor& memory = sum_.defined() ? sum_ : place_;
  return keeps_place_ && memory.defined() && memory.is_unique() ? memory.address() : nullptr;
}

void Gradient::clear() {
  arrive_ = nullptr;
  if (keeps_place_ && sum_.defined() && sum_.is_unique()) place_ = sum_;
  sum_ = Tensor();
}

Variable Variable::leaf(Tensor value) {
  auto gradient = std::make_shared<Gradient>(value.shape(), accumulator_dtype(value.dtype()));
  return Variable(std::move(value), std::move(gradient));
}

}  // namespace longship
