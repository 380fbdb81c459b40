// Copies between strided views of one shape, converting floating dtypes: the engine of
// Tensor::copy_from, contiguous() and to().
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/dtype.h"

namespace longship {

// The first element of a view and its strides, in elements.
struct StridedView {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  const std::vector<int64_t>& strides;
};

// to[i] = from[i] for every index i of `shape`. Equal dtypes, or two floating ones: rounding is to
// nearest even, from fp64 to bf16 by way of fp32. The views must not overlap. Large copies use the
// threads that OpenMP is set to.
void strided_copy(const std::vector<int64_t>& shape, const StridedView& to,
                  const StridedView& from);

}  // namespace longship
