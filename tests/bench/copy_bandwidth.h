// What memory can deliver at most: the other bound that benchmarks of attention compare with.
#pragma once

#include <cstring>

#include "runtime/context.h"
#include "runtime/parallel_for.h"
#include "tests/bench/stopwatch.h"

namespace longship {

// GB/s read and written together by a copy that fits no cache, all threads at once; the best of a
// few tries.
inline double copy_bandwidth(const Context& ctx) {
  constexpr int64_t kBytes = int64_t{1} << 27;
  const Tensor from = ctx.zeros({kBytes}, DType::kU8), to = ctx.zeros({kBytes}, DType::kU8);
  const double shortest_s = shortest_run_s(ctx.num_threads, 0.2, [&] {
    parallel_for(ctx, kBytes, 4096, [&](int64_t begin, int64_t end) {
      std::memcpy(to.data<uint8_t>() + begin, from.data<uint8_t>() + begin,
                  static_cast<size_t>(end - begin));
    });
  });
  return 2e-9 * static_cast<double>(kBytes) / shortest_s;
}

}  // namespace longship
