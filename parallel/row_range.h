// Runs of neighbouring rows of a tensor.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/tensor.h"

namespace longship {

struct RowRange {
  int64_t begin = 0, count = 0;
  int64_t end() const { return begin + count; }
  bool operator==(const RowRange&) const = default;
};

// A view of these rows of a tensor.
inline Tensor rows_of(const Tensor& tensor, RowRange rows) {
  return tensor.slice(0, rows.begin, rows.count);
}

// The smallest range that covers both; a range of no rows adds nothing.
RowRange cover(RowRange a, RowRange b);

// The same rows as ranges that ascend and do not touch; ranges of no rows are left out.
std::vector<RowRange> joined(std::vector<RowRange> ranges);

}  // namespace longship
