#include "runtime/checkpoint/flat_slices.h"

#include <algorithm>

namespace longship {
namespace {

// The largest box that begins at element `begin` and has no element from `end` on.
struct Box {
  Shape begin, extent;
};

Box largest_box(const Shape& shape, int64_t begin, int64_t end) {
  Box box{Shape(shape.size(), 0), Shape(shape.size(), 1)};
  int64_t row = 1;      // elements of one index of the dimension
  bool is_open = true;  // the box may grow: it spans all of the dimensions behind
  for (size_t dim = shape.size(); dim-- > 0; row *= shape[dim]) {
    box.begin[dim] = begin / row % shape[dim];
    if (!is_open) continue;
    box.extent[dim] = std::min(shape[dim] - box.begin[dim], (end - begin) / row);
    is_open = box.begin[dim] == 0 && box.extent[dim] == shape[dim];
  }
  return box;
}

}  // namespace

std::vector<NamedSlice> flat_slices(const NamedTensor& piece, int64_t first_element,
                                    const Shape& global_shape) {
  const int64_t total = num_elements(global_shape), count = piece.tensor.numel();
  LONGSHIP_CHECK(first_element >= 0 && first_element <= total - count,
                 "elements [{}, {} + {}) of {} {}", first_element, first_element, count, piece.name,
                 shape_string(global_shape));
  std::vector<NamedSlice> slices;
  for (int64_t done = 0; done < count;) {
    Box box = largest_box(global_shape, first_element + done, first_element + count);
    const int64_t size = num_elements(box.extent);
    slices.push_back({{piece.name, piece.tensor.slice(0, done, size).reshape(box.extent)},
                      std::move(box.begin),
                      global_shape});
    done += size;
  }
  return slices;
}

}  // namespace longship
