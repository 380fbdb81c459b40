// R rows, D features, B blocks of rows. Rows that fit stay in registers between the reduction and
// the result (see RowGroups), so that each element crosses memory once; the others, longer or
// without alignment, are read twice by the kernels named `wide`.
#include "runtime/ops/rms_norm_cuda.h"

#include <algorithm>

#include "runtime/cuda/cluster.cuh"
#include "runtime/cuda/row_sum.cuh"
#include "runtime/cuda/vector16.cuh"

namespace longship {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kColumnThreads = 256;
template <int kVectors>
constexpr int kRowBlocks = kResidentRowThreads<kVectors> / kRowBlockThreads<kVectors>;

// This thread's part of a row; zeros beyond the row, and where there is no such row.
template <class T, int kVectors>
struct RowPart {
  Vector16<T> vectors[kVectors];

  __device__ static RowPart load(const T* row, bool exists, int D, int lane, int threads_per_row) {
    RowPart part;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int feature = (i * threads_per_row + lane) * Vector16<T>::kSize;
      if (exists && feature < D) part.vectors[i] = Vector16<T>::load(row + feature);
    }
    return part;
  }
};

// Where this thread works (see RowGroups). kSpans: a row is a cluster's.
template <bool kSpans>
struct RowPlace {
  int lane = 0;  // within a row
  int threads_per_row = 0;
  int group = 0;  // within a block
  int rows_per_block = 1;
  int64_t block = 0, num_blocks = 0;  // of rows

  __device__ explicit RowPlace(int threads) : threads_per_row(threads) {
    const int thread = static_cast<int>(threadIdx.x), block_threads = static_cast<int>(blockDim.x);
    if constexpr (kSpans) {
      const auto cluster = cooperative_groups::this_cluster();
      lane = static_cast<int>(cluster.block_rank()) * block_threads + thread;
      block = blockIdx.x / cluster.num_blocks();
      num_blocks = gridDim.x / cluster.num_blocks();
      cluster.sync();  // its blocks run: sum() may be called
    } else {
      lane = thread % threads_per_row;
      group = thread / threads_per_row;
      rows_per_block = block_threads / threads_per_row;
      block = blockIdx.x;
      num_blocks = gridDim.x;
    }
  }

  // Over the threads of the row.
  __device__ float sum(float value, float (&scratch)[2][32], int parity) const {
    if constexpr (kSpans)
      return cluster_sum(row_sum(value, static_cast<int>(blockDim.x), scratch, parity), parity);
    return row_sum(value, threads_per_row, scratch, parity);
  }
};

template <class T, int kVectors, bool kSpans>
__global__ void __launch_bounds__(kRowBlockThreads<kVectors>, kRowBlocks<kVectors>)
    forward_kernel(const __grid_constant__ RmsNormForwardCuda op, int threads_per_row) {
  using Vector = Vector16<T>;
  using Part = RowPart<T, kVectors>;
  __shared__ float scratch[2][32];
  const int64_t R = op.num_rows;
  const int D = static_cast<int>(op.num_features);
  const RowPlace<kSpans> place(threads_per_row);
  const int lane = place.lane;
  const int64_t step = place.num_blocks * place.rows_per_block;
  const int64_t first_row = place.block * place.rows_per_block;
  int64_t row = first_row + place.group;
  const T* x = static_cast<const T*>(op.x_RD) + row * D;
  T* y = static_cast<T*>(op.y_RD) + row * D;

  const Part weight =
      Part::load(static_cast<const T*>(op.weight_D), true, D, lane, threads_per_row);
  Part current = Part::load(x, row < R, D, lane, threads_per_row);
  int parity = 0;
  for (int64_t first = first_row; first < R; first += step) {
    // On its way while this row is worked on.
    x += step * D;
    const Part next = Part::load(x, row + step < R, D, lane, threads_per_row);
    float square = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float values[Vector::kSize];
      current.vectors[i].unpack(values);
#pragma unroll
      for (int j = 0; j < Vector::kSize; ++j) square += values[j] * values[j];
    }
    square = place.sum(square, scratch, parity);
    parity ^= 1;
    const float rstd = 1.0f / sqrtf(square / static_cast<float>(D) + op.eps);
    if (row < R) {
      if (lane == 0) op.rstd_R[row] = rstd;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int feature = (i * threads_per_row + lane) * Vector::kSize;
        float values[Vector::kSize], scale[Vector::kSize];
        current.vectors[i].unpack(values);
        weight.vectors[i].unpack(scale);
#pragma unroll
        for (int j = 0; j < Vector::kSize; ++j)
          values[j] = values[j] * rstd * (scale[j] + op.shift);
        if (feature < D) Vector::pack(values).store(y + feature);
      }
    }
    current = next;
    row += step;
    y += step * D;
  }
}

// With w = weight + shift: dx = rstd (w dy - xhat mean(w dy xhat)) + other, if kAdds, and
// partials[block] = sum over its rows of dy xhat, with xhat = x rstd.
template <class T, int kVectors, bool kSpans, bool kAdds>
__global__ void __launch_bounds__(kRowBlockThreads<kVectors>, kRowBlocks<kVectors>)
    backward_kernel(const __grid_constant__ RmsNormBackwardCuda op, int threads_per_row) {
  using Vector = Vector16<T>;
  using Part = RowPart<T, kVectors>;
  constexpr int kSize = Vector::kSize;
  __shared__ float scratch[2][32];
  alignas(16) __shared__ float sums[kRowBlockThreads<kVectors> * kVectors * kSize];
  const int64_t R = op.num_rows;
  const int D = static_cast<int>(op.num_features);
  const RowPlace<kSpans> place(threads_per_row);
  const int lane = place.lane, rows_per_block = place.rows_per_block;
  const int64_t step = place.num_blocks * rows_per_block;
  const int64_t first_row = place.block * rows_per_block;

  Part weight = Part::load(static_cast<const T*>(op.weight_D), true, D, lane, threads_per_row);
  float dweight[kVectors][kSize] = {};
  int parity = 0;
  for (int64_t first = first_row; first < R; first += step) {
    const int64_t row = first + place.group;
    const bool exists = row < R;
    Part x = Part::load(static_cast<const T*>(op.x_RD) + row * D, exists, D, lane, threads_per_row);
    Part dy =
        Part::load(static_cast<const T*>(op.dy_RD) + row * D, exists, D, lane, threads_per_row);
    const float rstd = exists ? op.rstd_R[row] : 0.0f;
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float values[kSize], gradient[kSize], scale[kSize];
      x.vectors[i].unpack(values);
      dy.vectors[i].unpack(gradient);
      weight.vectors[i].unpack(scale);
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        dot += gradient[j] * (scale[j] + op.shift) * values[j];
        dweight[i][j] += gradient[j] * (values[j] * rstd);
      }
    }
    if (op.dx_RD == nullptr) continue;
    dot = place.sum(dot, scratch, parity);
    parity ^= 1;
    const float c = dot * rstd * rstd / static_cast<float>(D);
    if (!exists) continue;
    T* const dx = static_cast<T*>(op.dx_RD) + row * D;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      x.vectors[i].forget_values();
      dy.vectors[i].forget_values();
      weight.vectors[i].forget_values();
      const int feature = (i * threads_per_row + lane) * kSize;
      float values[kSize], gradient[kSize], scale[kSize];
      x.vectors[i].unpack(values);
      dy.vectors[i].unpack(gradient);
      weight.vectors[i].unpack(scale);
#pragma unroll
      for (int j = 0; j < kSize; ++j)
        values[j] = rstd * (gradient[j] * (scale[j] + op.shift) - c * values[j]);
      if constexpr (kAdds) {
        // Loaded this late because registers would not do.
        Vector other;
        if (feature < D)
          other = Vector::load_mutable(static_cast<const T*>(op.other_RD) + row * D + feature);
        other.unpack(gradient);
#pragma unroll
        for (int j = 0; j < kSize; ++j) values[j] += gradient[j];
      }
      if (feature < D) Vector::pack(values).store(dx + feature);
    }
  }
  if (op.partials_BD == nullptr) return;
  float* const partial = op.partials_BD + place.block * D;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int feature = (i * threads_per_row + lane) * kSize;
    if (feature >= D) continue;
    float* const to = rows_per_block == 1 ? partial + feature : sums + place.group * D + feature;
    store_elements(dweight[i], to);
  }
  if (rows_per_block == 1) return;
  __syncthreads();
  for (int feature = static_cast<int>(threadIdx.x); feature < D;
       feature += static_cast<int>(blockDim.x)) {
    float sum = 0;
    for (int g = 0; g < rows_per_block; ++g) sum += sums[g * D + feature];
    partial[feature] = sum;
  }
}

// A block a row, an element a thread. Its second read finds the row in the cache: few blocks of
// many threads run at a time.
template <class T>
__global__ void __launch_bounds__(kMostThreads)
    wide_forward_kernel(const __grid_constant__ RmsNormForwardCuda op) {
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
    wide_input_gradient_kernel(const __grid_constant__ RmsNormBackwardCuda op) {
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
    wide_weight_gradient_kernel(const __grid_constant__ RmsNormBackwardCuda op) {
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

// dweight[d] = sum over b of partials[b][d]: 32 threads a feature, then in order.
__global__ void __launch_bounds__(1024)
    add_partials_kernel(const float* partials_BD, int64_t num_partials, int64_t D, float* dweight) {
  __shared__ float sums[32][33];
  const int64_t d = int64_t{blockIdx.x} * 32 + threadIdx.x;
  float sum = 0;
  if (d < D)
    for (int64_t b = threadIdx.y; b < num_partials; b += 32) sum += partials_BD[b * D + d];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || d >= D) return;
  float total = 0;
  for (int i = 0; i < 32; ++i) total += sums[i][threadIdx.x];
  dweight[d] = total;
}

unsigned row_blocks(int64_t num_rows) {
  return static_cast<unsigned>(std::min<int64_t>(num_rows, 1 << 16));
}

unsigned feature_blocks(int64_t num_features, int64_t width) {
  return static_cast<unsigned>((num_features + width - 1) / width);
}

template <class Op>
void launch_wide(const Op& op, void (*kernel)(Op), StreamHandle stream) {
  unsigned threads = 32;
  while (threads < kMostThreads && threads < op.num_features) threads *= 2;
  kernel<<<row_blocks(op.num_rows), threads, 0, stream>>>(op);
}

// `kernel` takes the threads of a row after `op`.
template <class Op>
void launch_rows(const Op& op, const RowGroups& groups, void (*kernel)(Op, int),
                 StreamHandle stream) {
  if (groups.blocks_per_row == 1) {
    kernel<<<static_cast<unsigned>(groups.num_groups), groups.block_threads(), 0, stream>>>(
        op, groups.threads_per_row);
  } else {
    launch_clusters(kernel, groups.num_groups, groups.blocks_per_row, groups.block_threads(),
                    stream, "launch rms_norm of long rows", op, groups.threads_per_row);
  }
}

template <class T>
void forward(const RmsNormForwardCuda& op, StreamHandle stream) {
  const RowGroups groups = row_groups(op.dtype, op.num_rows, op.num_features);
  const bool aligned =
      is_vector_aligned(op.x_RD) && is_vector_aligned(op.weight_D) && is_vector_aligned(op.y_RD);
  if (!aligned || groups.vectors_per_thread == 0) {
    launch_wide(op, wide_forward_kernel<T>, stream);
  } else {
    const auto kernel = groups.vectors_per_thread == 1   ? forward_kernel<T, 1, false>
                        : groups.vectors_per_thread == 3 ? forward_kernel<T, 3, false>
                        : groups.blocks_per_row == 1     ? forward_kernel<T, 2, false>
                                                         : forward_kernel<T, 2, true>;
    launch_rows(op, groups, kernel, stream);
  }
  check_launch("rms_norm forward");
}

template <class T, bool kAdds>
auto row_backward(const RowGroups& groups) {
  return groups.vectors_per_thread == 1   ? backward_kernel<T, 1, false, kAdds>
         : groups.vectors_per_thread == 3 ? backward_kernel<T, 3, false, kAdds>
         : groups.blocks_per_row == 1     ? backward_kernel<T, 2, false, kAdds>
                                          : backward_kernel<T, 2, true, kAdds>;
}

template <class T>
void backward(const RmsNormBackwardCuda& op, StreamHandle stream) {
  const RowGroups groups = row_groups(op.dtype, op.num_rows, op.num_features);
  const bool aligned = is_vector_aligned(op.x_RD) && is_vector_aligned(op.weight_D) &&
                       is_vector_aligned(op.dy_RD) && is_vector_aligned(op.dx_RD) &&
                       is_vector_aligned(op.other_RD);
  if (!aligned || groups.vectors_per_thread == 0) {
    if (op.dx_RD != nullptr && op.num_rows > 0)
      launch_wide(op, wide_input_gradient_kernel<T>, stream);
    if (op.dweight_D != nullptr) {
      const dim3 grid(feature_blocks(op.num_features, kColumnThreads),
                      static_cast<unsigned>(groups.num_groups));
      wide_weight_gradient_kernel<T><<<grid, kColumnThreads, 0, stream>>>(op);
    }
  } else {
    launch_rows(
        op, groups,
        op.other_RD != nullptr ? row_backward<T, true>(groups) : row_backward<T, false>(groups),
        stream);
  }
  check_launch("rms_norm backward");
}

}  // namespace

void rms_norm_forward_cuda(const RmsNormForwardCuda& op, StreamHandle stream) {
  if (op.num_rows == 0) return;
  dispatch_cuda_dtype(op.dtype, [&](auto tag) { forward<decltype(tag)>(op, stream); });
}

void rms_norm_backward_cuda(const RmsNormBackwardCuda& op, StreamHandle stream) {
  dispatch_cuda_dtype(op.dtype, [&](auto tag) { backward<decltype(tag)>(op, stream); });
  if (op.dweight_D == nullptr) return;
  add_partials_kernel<<<feature_blocks(op.num_features, 32), dim3(32, 32), 0, stream>>>(
      op.partials_BD, rms_norm_num_partials(op.dtype, op.num_rows, op.num_features),
      op.num_features, op.dweight_D);
  check_launch("rms_norm weight gradient");
}

}  // namespace longship
