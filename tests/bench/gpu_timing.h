// Times of work on a GPU, and data for it.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>

#include "runtime/gpu.h"
#include "runtime/random.h"

namespace longship {

// Milliseconds of the GPU for `timed`, the best of several. `before` runs ahead of each and should
// keep the GPU busy while the host enqueues.
inline double best_ms(const Context& ctx, int num_repeats, const std::function<void()>& before,
                      const std::function<void()>& timed) {
  constexpr int kWarmUps = 2;
  double best = std::numeric_limits<double>::infinity();
  for (int repeat = -kWarmUps; repeat < num_repeats; ++repeat) {
    before();
    const Event start = ctx.gpu->compute->record_time();
    timed();
    const Event end = ctx.gpu->compute->record_time();
    end.synchronize();
    if (repeat >= 0) best = std::min(best, end.milliseconds_since(start));
  }
  return best;
}

// Of a call after another one.
inline double best_ms(const Context& ctx, const std::function<void()>& timed) {
  return best_ms(ctx, 10, timed, timed);
}

// Standard normals times `scale`: a GPU's clock depends on the data.
inline Tensor random(const Context& ctx, Shape shape, DType dtype, double scale = 1) {
  constexpr int64_t kPeriod = (1 << 16) + 1;
  const Tensor values = Tensor::empty(std::make_shared<Memory>(), std::move(shape), DType::kF32);
  float* const data = values.data<float>();
  for (int64_t i = 0; i < values.numel(); ++i)
    data[i] = i < kPeriod ? static_cast<float>(scale * normal(1, 1, static_cast<uint64_t>(i)))
                          : data[i - kPeriod];
  return values.to(dtype).to(ctx.memory);
}

}  // namespace longship
