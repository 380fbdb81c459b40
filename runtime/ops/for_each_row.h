// Loops over the rows of a packed tensor, spread over threads.
#pragma once

#include <algorithm>

#include "runtime/parallel_for.h"

namespace longship {

// Calls row(first element) for every row of `num_features` elements, so that an element's place in
// the inner loop, and with it its bits, depends on its feature only and not on tokens or threads.
template <class F>
void for_each_row(const Context& ctx, const Tensor& tensor, int64_t num_features, F&& row) {
  if (num_features == 0) return;
  const int64_t grain = std::max<int64_t>(1, (1 << 13) / num_features);
  parallel_for(ctx, tensor.numel() / num_features, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) row(t * num_features);
  });
}

}  // namespace longship
