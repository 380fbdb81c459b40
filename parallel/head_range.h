// Runs of neighbouring heads.
#pragma once

#include <cstdint>

#include "runtime/tensor.h"

namespace longship {

struct HeadRange {
  int64_t begin = 0, count = 0;
  int64_t end() const { return begin + count; }
  bool operator==(const HeadRange&) const = default;
};

// A view of these heads of a tensor whose dim 1 is heads.
inline Tensor heads_of(const Tensor& x_THX, HeadRange heads) {
  return x_THX.slice(1, heads.begin, heads.count);
}

}  // namespace longship
