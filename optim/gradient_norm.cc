#include "optim/gradient_norm.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "runtime/parallel_for.h"

namespace longship {
namespace {

// Fixed, so that the order of the sum does not depend on the number of threads.
constexpr int64_t kBlock = 1 << 14;

// Calls f(block, begin, end) for each block of `count` elements, blocks shared out over threads.
template <class F>
void for_each_block(const Context& ctx, int64_t count, F&& f) {
  parallel_for(ctx, (count + kBlock - 1) / kBlock, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block)
      f(block, block * kBlock, std::min((block + 1) * kBlock, count));
  });
}

double sum_of_squares(const Context& ctx, const Tensor& tensor) {
  std::vector<double> partial(static_cast<size_t>((tensor.numel() + kBlock - 1) / kBlock));
  dispatch_floating(tensor.dtype(), [&](auto tag) {
    const auto* data = tensor.data<decltype(tag)>();
    for_each_block(ctx, tensor.numel(), [&](int64_t block, int64_t begin, int64_t end) {
      // Independent lanes, so that the compiler may use vectors without changing the order.
      double lanes[8] = {};
      for (int64_t i = begin; i < end; ++i) {
        const double value = static_cast<double>(data[i]);
        lanes[(i - begin) % 8] += value * value;
      }
      double sum = 0;
      for (double lane : lanes) sum += lane;
      partial[static_cast<size_t>(block)] = sum;
    });
  });
  double sum = 0;
  for (double value : partial) sum += value;
  return sum;
}

bool is_finite(const Context& ctx, const Tensor& tensor) {
  std::atomic<bool> finite = true;
  dispatch_floating(tensor.dtype(), [&](auto tag) {
    const auto* data = tensor.data<decltype(tag)>();
    for_each_block(ctx, tensor.numel(), [&](int64_t, int64_t begin, int64_t end) {
      bool all = true;
      for (int64_t i = begin; i < end; ++i)
        all &= static_cast<bool>(std::isfinite(static_cast<double>(data[i])));
      if (!all) finite = false;
    });
  });
  return finite;
}

}  // namespace

double gradient_norm(const Context& ctx, const ParameterList& parameters) {
  double sum = 0;
  for (const Parameter& parameter : parameters.all()) {
    const Gradient& gradient = *parameter.variable.gradient();
    if (gradient.defined()) sum += sum_of_squares(ctx, gradient.sum().contiguous());
  }
  return std::sqrt(sum);
}

std::string first_non_finite(const Context& ctx, const ParameterList& parameters) {
  for (const Parameter& parameter : parameters.all()) {
    const Gradient& gradient = *parameter.variable.gradient();
    if (gradient.defined() && !is_finite(ctx, gradient.sum().contiguous())) return parameter.name;
  }
  return {};
}

double clip_scale(double norm, double max_norm) {
  return max_norm > 0 && norm > max_norm ? max_norm / norm : 1.0;
}

}  // namespace longship
