#include "optim/gradient_norm.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "optim/gradient_norm_cuda.h"
#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
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

double sum_of_squares(const Context& ctx, const ParameterList& parameters) {
  double sum = 0;
  for (const Parameter& parameter : parameters.all()) {
    const Gradient& gradient = *parameter.variable.gradient();
    if (gradient.defined()) sum += sum_of_squares(ctx, gradient.sum().contiguous());
  }
  return sum;
}

std::string first_non_finite_cpu(const Context& ctx, const ParameterList& parameters) {
  for (const Parameter& parameter : parameters.all()) {
    const Gradient& gradient = *parameter.variable.gradient();
    if (gradient.defined() && !is_finite(ctx, gradient.sum().contiguous())) return parameter.name;
  }
  return {};
}

// The sums of squares of all chunks of the gradients on a GPU.
struct ChunkSquares {
  Tensor squares_C;  // fp64
  std::vector<const Parameter*> parameters;
  std::vector<GradientEntry> entries;  // of these parameters
};

ChunkSquares chunk_squares(const Context& ctx, const ParameterList& parameters) {
  ChunkSquares result;
  std::vector<Tensor> packed;  // kept until the kernel is enqueued
  int64_t num_chunks = 0;
  for (const Parameter& parameter : parameters.all()) {
    const Gradient& gradient = *parameter.variable.gradient();
    if (!gradient.defined()) continue;
    packed.push_back(gradient.sum().contiguous());
    result.parameters.push_back(&parameter);
    result.entries.push_back({.data = packed.back().device_data<float>(),
                              .num_elements = packed.back().numel(),
                              .first_chunk = num_chunks});
    num_chunks += (packed.back().numel() + kGradientChunk - 1) / kGradientChunk;
  }
  result.squares_C = ctx.empty({num_chunks}, DType::kF64);
  const Tensor entries_N = upload_table(ctx, std::span<const GradientEntry>(result.entries));
  sum_chunk_squares_cuda(reinterpret_cast<const GradientEntry*>(entries_N.address()),
                         std::ssize(result.entries), num_chunks,
                         result.squares_C.device_data<double>(), compute_stream(ctx));
  return result;
}

void sum_of_squares_cuda(const Context& ctx, const ParameterList& parameters,
                         const Tensor& total_1) {
  const Tensor squares_C = chunk_squares(ctx, parameters).squares_C;
  add_chunk_squares_cuda(squares_C.device_data<double>(), squares_C.numel(),
                         total_1.device_data<double>(), compute_stream(ctx));
}

std::string first_non_finite_cuda(const Context& ctx, const ParameterList& parameters) {
  const ChunkSquares chunks = chunk_squares(ctx, parameters);
  const Tensor squares_C = chunks.squares_C.to(std::make_shared<Memory>());
  int64_t chunk = 0;
  while (chunk < squares_C.numel() && std::isfinite(squares_C.data<double>()[chunk])) ++chunk;
  if (chunk == squares_C.numel()) return {};
  size_t owner = 0;
  while (owner + 1 < chunks.entries.size() && chunks.entries[owner + 1].first_chunk <= chunk)
    ++owner;
  return chunks.parameters[owner]->name;
}

}  // namespace

Tensor squared_gradient_norm(const Context& ctx, const ParameterList& parameters) {
  const Tensor total_1 = ctx.empty({1}, DType::kF64);
  dispatch_device(
      total_1, [&] { *total_1.data<double>() = sum_of_squares(ctx, parameters); },
      [&] { sum_of_squares_cuda(ctx, parameters, total_1); });
  return total_1;
}

double gradient_norm(const Context& ctx, const ParameterList& parameters) {
  const Tensor squared = squared_gradient_norm(ctx, parameters);
  const bool on_host = squared.device().kind == DeviceKind::kCpu;
  return std::sqrt(*(on_host ? squared : squared.to(std::make_shared<Memory>())).data<double>());
}

std::string first_non_finite(const Context& ctx, const ParameterList& parameters) {
  return ctx.memory->device().kind == DeviceKind::kCpu ? first_non_finite_cpu(ctx, parameters)
                                                       : first_non_finite_cuda(ctx, parameters);
}

double clip_scale(double norm, double max_norm) {
  return max_norm > 0 && norm > max_norm ? max_norm / norm : 1.0;
}

}  // namespace longship
