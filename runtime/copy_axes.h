// How a copy between two strided views walks: the fewest nested loops that visit every element.
#pragma once

#include <cstdint>
#include <vector>

namespace longship {

// A loop of the copy; strides are in elements.
struct CopyAxis {
  int64_t extent = 1;
  int64_t to_stride = 0;
  int64_t from_stride = 0;

  bool is_run() const { return to_stride == 1 && from_stride == 1; }
};

// Orders the dimensions by the strides of `to`, largest first, and joins those that form one run in
// both views. Empty for a single element.
std::vector<CopyAxis> joined_copy_axes(const std::vector<int64_t>& shape,
                                       const std::vector<int64_t>& to_strides,
                                       const std::vector<int64_t>& from_strides);

}  // namespace longship
