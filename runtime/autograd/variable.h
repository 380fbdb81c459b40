// Variable: a tensor together with the place where its gradient is summed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "runtime/context.h"

namespace longship {

// The gradient of one tensor. Nodes of the tape hold Gradients, not Variables, so a value that no
// backward needs is freed as soon as the forward drops it.
class Gradient {
 public:
  Gradient(Shape shape, DType dtype) : shape_(std::move(shape)), dtype_(dtype) {}

  const Shape& shape() const { return shape_; }
  // Sums are kept in this dtype: fp32 (or fp64) for parameters, the value's dtype otherwise.
  DType dtype() const { return dtype_; }

  // Adds `contribution` (converted to dtype()). The first one is kept without a copy; later ones
  // are added in fp32/fp64, in place when nothing else views the sum. The order of calls is the
  // reverse order of the tape, so it is the same in every run.
  void add(Context& ctx, Tensor contribution);

  // The same for a contribution that is still on its way from other ranks: `arrive` waits for it
  // and returns it. That is called when the gradient is first read or added to, and at the end of
  // Tape::backward() at the latest.
  void add_later(Context& ctx, std::function<Tensor()> arrive);
  bool is_on_its_way() const { return arrive_ != nullptr; }

  // The sum itself, created as zeros when nothing has been added, for ops that accumulate in
  // place (weight gradients).
  Tensor& accumulate_into(Context& ctx);

  // For ops that add what is there in the same pass that computes their contribution: the caller
  // has to fill `after`, the new sum, with `before` + contribution, or with the contribution alone
  // where `before` is undefined. Both may be one memory: where nothing else views the sum.
  struct Update {
    Tensor before, after;
  };
  Update begin_update(Context& ctx);

  // From now on the memory of a sum outlives clear() and is that of the next one, unless others
  // view it: contributions are copied there. `false` lets go of it.
  void keep_place(bool keep);
  // Where the sum is, or will be; null if that may change.
  const void* place() const;

  bool defined() const { return sum_.defined() || is_on_its_way(); }
  const Tensor& sum() const {
    if (is_on_its_way()) settle();
    return sum_;
  }
  Tensor take() {
    sum();
    return std::move(sum_);
  }
  void clear();

 private:
  Tensor converted(const Tensor& contribution) const;
  void settle() const;
  Tensor new_sum(Context& ctx);  // uninitialised

  Shape shape_;
  DType dtype_;
  // Reading a sum that is on its way makes it arrive.
  mutable Tensor sum_;
  mutable std::function<Tensor()> arrive_;  // of all that there is of the sum
  bool keeps_place_ = false;
  Tensor place_;  // for the next sum, while there is none
};

class Variable {
 public:
  Variable() = default;
  // A constant: no gradient flows to it.
  Variable(Tensor value) : value_(std::move(value)) {}  // NOLINT: implicit on purpose
  Variable(Tensor value, std::shared_ptr<Gradient> gradient)
      : value_(std::move(value)), gradient_(std::move(gradient)) {}

  // A leaf whose gradient is wanted, summed in the accumulator dtype of `value` (fp32 or fp64).
  static Variable leaf(Tensor value);

  bool defined() const { return value_.defined(); }
  const Tensor& value() const { return value_; }
  const Shape& shape() const { return value_.shape(); }
  int64_t dim(int index) const { return value_.dim(index); }
  DType dtype() const { return value_.dtype(); }

  bool requires_grad() const { return gradient_ != nullptr; }
  const std::shared_ptr<Gradient>& gradient() const { return gradient_; }

 private:
  Tensor value_;
  std::shared_ptr<Gradient> gradient_;
};

}  // namespace longship
