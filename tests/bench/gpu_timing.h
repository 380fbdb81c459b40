// Times of work on a GPU, and data for it.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>

#include "runtime/gpu.h"
#include "runtime/random.h"

namespace longship {

// Milliseconds of the GPU, the best of several; a call that is not timed keeps the GPU busy while
// the host enqueues.
inline double best_ms(const Context& ctx, const std::function<void()>& timed) {
  constexpr int kRepeats = 12;
  double best = std::numeric_limits<double>::infinity();
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    timed();
    const Event start = ctx.gpu->compute->record_time();
    timed();
    const Event end = ctx.gpu->compute->record_time();
    end.synchronize();
    if (repeat > 1) best = std::min(best, end.milliseconds_since(start));
  }
  return best;
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
