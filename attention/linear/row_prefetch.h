// Fetches rows that the next chunk will read, a few cache lines at a time, while products run: the
// rows of one head lie far apart, and waiting for them takes as long as a large part of the work.
#pragma once

#include <array>
#include <cstddef>

#include "attention/linear/panel_matrix.h"

namespace longship {

class RowPrefetch {
 public:
  void clear() { count_ = current_ = 0; }

  // The first `size` elements of `num_rows` rows. At most four tensors.
  void add(const TensorRows& rows, int64_t num_rows, int64_t size) {
    const int64_t element = dtype_size(rows.tensor.dtype());
    ranges_[count_++] = {rows.tensor.raw() + rows.first * element, rows.step * element,
                         size * element, num_rows};
  }

  // Asks for the next lines, if any are left.
  void step() {
    constexpr int64_t kLine = 64;
    for (int line = 0; line < kLinesPerStep && current_ < count_; ++line) {
      Range& range = ranges_[current_];
      __builtin_prefetch(range.row + offset_);
      offset_ += kLine;
      if (offset_ < range.row_bytes) continue;
      offset_ = 0;
      range.row += range.step_bytes;
      if (--range.num_rows == 0) ++current_;
    }
  }

 private:
  static constexpr int kLinesPerStep = 16;

  struct Range {
    const std::byte* row;
    int64_t step_bytes, row_bytes, num_rows;
  };
  std::array<Range, 4> ranges_;
  size_t count_ = 0, current_ = 0;
  int64_t offset_ = 0;  // within the row
};

}  // namespace longship
