#include "optim/gradient_norm.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <vector>

#include "optim/gradient_norm_cuda.h"
#include "runtime/gpu.h"
#include "runtime/host_copy.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

static_assert(kGradientChunk == kPieceElements);
constexpr int64_t kBlock = kPieceElements;

int64_t num_blocks_of(int64_t num_elements) {
  return (num_elements + kBlock - 1) / kBlock;
}

// Calls f(block, begin, end) for each block of `count` elements, blocks shared out over threads.
template <class F>
void for_each_block(const Context& ctx, int64_t count, F&& f) {
  parallel_for(ctx, num_blocks_of(count), 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block)
      f(block, block * kBlock, std::min((block + 1) * kBlock, count));
  });
}

// squares[b] = sum of the squares of block b.
void sum_block_squares(const Context& ctx, const Tensor& tensor, double* squares) {
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
      squares[block] = sum;
    });
  });
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

// The gradients that this rank holds, whole or in pieces.
struct HeldGradient {
  Tensor values;             // contiguous
  int64_t parameter = 0;     // its number in the list
  int64_t first_square = 0;  // the number of its first block among those of all parameters
};

struct HeldGradients {
  std::vector<HeldGradient> gradients;
  int64_t num_blocks = 0;  // of all parameters, held or not
};

HeldGradients held_gradients(const ParameterList& parameters) {
  HeldGradients held;
  int64_t number = 0;
  for (const Parameter& parameter : parameters.all()) {
    if (parameter.gradient->defined() && parameter.master.numel() > 0)
      held.gradients.push_back({parameter.gradient->sum().contiguous(), number,
                                held.num_blocks + parameter.first_element / kBlock});
    held.num_blocks += num_blocks_of(parameter.variable.value().numel());
    ++number;
  }
  return held;
}

void sum_squares_cuda(const Context& ctx, const HeldGradients& held, const Tensor& squares_C) {
  std::vector<GradientEntry> entries;
  int64_t num_chunks = 0;
  for (const HeldGradient& gradient : held.gradients) {
    entries.push_back({.data = gradient.values.device_data<float>(),
                       .num_elements = gradient.values.numel(),
                       .first_chunk = num_chunks,
                       .first_square = gradient.first_square});
    num_chunks += num_blocks_of(gradient.values.numel());
  }
  if (entries.empty()) return;
  const Tensor entries_N = upload_table(ctx, std::span<const GradientEntry>(entries));
  sum_chunk_squares_cuda(reinterpret_cast<const GradientEntry*>(entries_N.address()),
                         std::ssize(entries), num_chunks, squares_C.device_data<double>(),
                         compute_stream(ctx));
}

bool is_finite_cuda(const Context& ctx, const HeldGradient& gradient) {
  const HeldGradients alone = {.gradients = {{gradient.values}}};
  const Tensor squares_C = ctx.empty({num_blocks_of(gradient.values.numel())}, DType::kF64);
  sum_squares_cuda(ctx, alone, squares_C);
  // No square of a finite fp32 number overflows in fp64.
  return is_finite(ctx, squares_C.to(std::make_shared<Memory>()));
}

}  // namespace

Tensor squared_gradient_norm(const Context& ctx, const ParameterList& parameters,
                             const Group& sharers) {
  const HeldGradients held = held_gradients(parameters);
  const Tensor squares_C = ctx.zeros({held.num_blocks}, DType::kF64);
  const Tensor total_1 = ctx.empty({1}, DType::kF64);
  const bool on_host = ctx.memory->device().kind == DeviceKind::kCpu;
  if (on_host) {
    for (const HeldGradient& gradient : held.gradients)
      sum_block_squares(ctx, gradient.values, squares_C.data<double>() + gradient.first_square);
  } else {
    sum_squares_cuda(ctx, held, squares_C);
  }
  // One rank has a sum, the others add zero to it.
  sharers.all_reduce("gradient_norm", squares_C).wait();
  if (on_host) {
    const double* squares = squares_C.data<double>();
    *total_1.data<double>() = std::accumulate(squares, squares + held.num_blocks, 0.0);
  } else {
    add_chunk_squares_cuda(squares_C.device_data<double>(), held.num_blocks,
                           total_1.device_data<double>(), compute_stream(ctx));
  }
  return total_1;
}

double gradient_norm(const Context& ctx, const ParameterList& parameters, const Group& sharers) {
  const Tensor squared = squared_gradient_norm(ctx, parameters, sharers);
  return std::sqrt(*squared.to(host_context(ctx).memory).data<double>());
}

std::string first_non_finite(const Context& ctx, const ParameterList& parameters,
                             const Group& sharers) {
  const bool on_host = ctx.memory->device().kind == DeviceKind::kCpu;
  int64_t first = std::ssize(parameters.all());
  for (const HeldGradient& gradient : held_gradients(parameters).gradients) {
    const bool finite = on_host ? is_finite(ctx, gradient.values) : is_finite_cuda(ctx, gradient);
    if (finite) continue;
    first = gradient.parameter;
    break;
  }
  first = sharers.all_reduce_value("gradient_norm", first, ReduceOp::kMin);
  return first < std::ssize(parameters.all()) ? parameters.all()[static_cast<size_t>(first)].name
                                              : std::string();
}

double clip_scale(double norm, double max_norm) {
  return max_norm > 0 && norm > max_norm ? max_norm / norm : 1.0;
}

}  // namespace longship
