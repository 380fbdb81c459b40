#include "runtime/ops/elementwise.h"

#include <iterator>

namespace longship {

ElementwiseCuda elementwise(std::initializer_list<const Tensor*> inputs,
                            std::initializer_list<const Tensor*> outputs) {
  const Tensor& like = **outputs.begin();
  ElementwiseCuda op{.dtype = like.dtype(), .num_elements = like.numel()};
  LONGSHIP_CHECK(inputs.size() <= std::size(op.inputs) && outputs.size() <= std::size(op.outputs),
                 "an elementwise op with {} inputs and {} outputs", inputs.size(), outputs.size());
  auto address = [&](const Tensor& tensor) {
    LONGSHIP_CHECK(tensor.shape() == like.shape() && tensor.dtype() == like.dtype() &&
                       tensor.device() == like.device() && tensor.is_contiguous(),
                   "an elementwise op on {} {} on {} and {} {} on {}", dtype_name(tensor.dtype()),
                   shape_string(tensor.shape()), device_name(tensor.device()),
                   dtype_name(like.dtype()), shape_string(like.shape()),
                   device_name(like.device()));
    return tensor.address();
  };
  size_t i = 0;
  for (const Tensor* input : inputs) op.inputs[i++] = address(*input);
  i = 0;
  for (const Tensor* output : outputs) op.outputs[i++] = address(*output);
  return op;
}

}  // namespace longship
