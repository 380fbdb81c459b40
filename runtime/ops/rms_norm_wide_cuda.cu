#include "runtime/ops/rms_norm_wide_cuda.h"

#include <algorithm>

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/row_sum.cuh"
#include "runtime/cuda/vector16.cuh"

namespace longship {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kColumnThreads = 256;

// A block a row, an element a thread. Its second read finds the row in the cache: few blocks of
// many threads run at a time.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    forward_kernel(const __grid_constant__ RmsNormForwardCuda op) {
  __shared__ float scratch[2][32];
  const int64_t D = op.num_features;
  const T* const weight = static_cast<const T*>(op.weight_D);
  int parity = 0;
  for (int64_t row = blockIdx.x; row < op.num_rows; row += gridDim.x) {
    const T* const x = static_cast<const T*>(op.x_RD) + row * D;
    T* const y = static_cast<T*>(op.y_RD) + row * D;
    float square = 0;
#pragma unroll 4
    for (int64_t d = threadIdx.x; d < D; d += blockDim.x) square += to_float(x[d]) * to_float(x[d]);
    square = row_sum(square, static_cast<int>(blockDim.x), scratch, parity);
    parity ^= 1;
    const float rstd = 1.0f / sqrtf(square / static_cast<float>(D) + op.eps);
    if (threadIdx.x == 0) op.rstd_R[row] = rstd;
#pragma unroll 2
    for (int64_t d = threadIdx.x; d < D; d += blockDim.x)
      y[d] = from_float<T>(to_float(x[d]) * rstd * (to_float(weight[d]) + op.shift));
  }
}

template <class T>
__global__ void __launch_bounds__(kMostThreads)
    input_gradient_kernel(const __grid_constant__ RmsNormBackwardCuda op) {
  __shared__ float scratch[2][32];
  const int64_t D = op.num_features;
  const T* const weight = static_cast<const T*>(op.weight_D);
  int parity = 0;
  for (int64_t row = blockIdx.x; row < op.num_rows; row += gridDim.x) {
    const T* const x = static_cast<const T*>(op.x_RD) + row * D;
    const T* const dy = static_cast<const T*>(op.dy_RD) + row * D;
    T* const dx = static_cast<T*>(op.dx_RD) + row * D;
    const T* const other =
        op.other_RD == nullptr ? nullptr : static_cast<const T*>(op.other_RD) + row * D;
    float dot = 0;
#pragma unroll 2
    for (int64_t d = threadIdx.x; d < D; d += blockDim.x)
      dot += to_float(dy[d]) * (to_float(weight[d]) + op.shift) * to_float(x[d]);
    dot = row_sum(dot, static_cast<int>(blockDim.x), scratch, parity);
    parity ^= 1;
    const float rstd = op.rstd_R[row];
    const float c = dot * rstd * rstd / static_cast<float>(D);
#pragma unroll 2
    for (int64_t d = threadIdx.x; d < D; d += blockDim.x) {
      float value =
          rstd * (to_float(dy[d]) * (to_float(weight[d]) + op.shift) - c * to_float(x[d]));
      if (other != nullptr) value += to_float(other[d]);
      dx[d] = from_float<T>(value);
    }
  }
}

// Block (f, b): 256 features, of the rows of partial sum b.
template <class T>
__global__ void __launch_bounds__(kColumnThreads)
    weight_gradient_kernel(const __grid_constant__ RmsNormBackwardCuda op) {
  const int64_t D = op.num_features;
  const int64_t d = int64_t{blockIdx.x} * kColumnThreads + threadIdx.x;
  if (d >= D) return;
  const T* const x = static_cast<const T*>(op.x_RD);
  const T* const dy = static_cast<const T*>(op.dy_RD);
  const int64_t begin = op.num_rows * blockIdx.y / gridDim.y;
  const int64_t end = op.num_rows * (blockIdx.y + 1) / gridDim.y;
  float sum = 0;
  for (int64_t row = begin; row < end; ++row)
    sum += to_float(dy[row * D + d]) * (to_float(x[row * D + d]) * op.rstd_R[row]);
  op.partials_BD[blockIdx.y * D + d] = sum;
}

template <class Op>
void launch(const Op& op, void (*kernel)(Op), StreamHandle stream) {
  unsigned threads = 32;
  while (threads < kMostThreads && threads < op.num_features) threads *= 2;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(op.num_rows, 1 << 16));
  kernel<<<blocks, threads, 0, stream>>>(op);
}

}  // namespace

void rms_norm_wide_forward_cuda(const RmsNormForwardCuda& op, StreamHandle stream) {
  dispatch_cuda_dtype(op.dtype,
                      [&](auto tag) { launch(op, forward_kernel<decltype(tag)>, stream); });
}

void rms_norm_wide_backward_cuda(const RmsNormBackwardCuda& op, StreamHandle stream) {
  dispatch_cuda_dtype(op.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (op.dx_RD != nullptr && op.num_rows > 0) launch(op, input_gradient_kernel<T>, stream);
    if (op.dweight_D == nullptr) return;
    const dim3 grid(
        static_cast<unsigned>((op.num_features + kColumnThreads - 1) / kColumnThreads),
        static_cast<unsigned>(rms_norm_num_partials(op.dtype, op.num_rows, op.num_features)));
    weight_gradient_kernel<T><<<grid, kColumnThreads, 0, stream>>>(op);
  });
}

}  // namespace longship
