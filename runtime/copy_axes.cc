#include "runtime/copy_axes.h"

#include <algorithm>
#include <cstddef>

namespace longship {

std::vector<CopyAxis> joined_copy_axes(const std::vector<int64_t>& shape,
                                       const std::vector<int64_t>& to_strides,
                                       const std::vector<int64_t>& from_strides) {
  std::vector<CopyAxis> axes;
  for (size_t i = 0; i < shape.size(); ++i)
    if (shape[i] != 1) axes.push_back({shape[i], to_strides[i], from_strides[i]});
  std::stable_sort(axes.begin(), axes.end(),
                   [](const CopyAxis& a, const CopyAxis& b) { return a.to_stride > b.to_stride; });
  std::vector<CopyAxis> joined;
  for (const CopyAxis& axis : axes) {
    if (!joined.empty() && joined.back().to_stride == axis.to_stride * axis.extent &&
        joined.back().from_stride == axis.from_stride * axis.extent) {
      joined.back() = {joined.back().extent * axis.extent, axis.to_stride, axis.from_stride};
    } else {
      joined.push_back(axis);
    }
  }
  return joined;
}

}  // namespace longship
