// R rows, D features, B blocks of rows. Rows that fit stay in registers between the reduction and
// the result (see RowGroups), so that each element crosses memory once; the others, longer or
// without alignment, go to rms_norm_wide_cuda.h.
#include "runtime/ops/rms_norm_cuda.h"

#include "runtime/cuda/cluster.cuh"
#include "runtime/cuda/partial_sums.cuh"
#include "runtime/cuda/row_sum.cuh"
#include "runtime/cuda/vector16.cuh"
#include "runtime/ops/rms_norm_wide_cuda.h"

namespace longship {
namespace {

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

template <class T, int kVectors>
__device__ float sum_of_squares(const RowPart<T, kVectors>& part) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float values[Vector16<T>::kSize];
    part.vectors[i].unpack(values);
#pragma unroll
    for (int j = 0; j < Vector16<T>::kSize; ++j) sum += values[j] * values[j];
  }
  return sum;
}

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
    const float square = place.sum(sum_of_squares(current), scratch, parity);
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

// A thread's work on the gradients of its rows, with w = weight + shift and xhat = x rstd:
//   dx = rstd (w dy - xhat mean(w dy xhat)) + other, if kAdds
//   dweight = sum over rows of dy xhat
template <class T, int kVectors, bool kSpans, bool kAdds>
class BackwardWork {
 public:
  static constexpr int kSize = Vector16<T>::kSize;
  static constexpr int kSums = kRowBlockThreads<kVectors> * kVectors * kSize;

  __device__ BackwardWork(const RmsNormBackwardCuda& op, const RowPlace<kSpans>& place)
      : op_(op),
        place_(place),
        D_(static_cast<int>(op.num_features)),
        weight_(load(static_cast<const T*>(op.weight_D), true)) {}

  // One row, or none where there is no such row. All threads of the block call it.
  __device__ void add_row(int64_t row, float (&scratch)[2][32], int parity) {
    const bool exists = row < op_.num_rows;
    Part x = load(static_cast<const T*>(op_.x_RD) + row * D_, exists);
    Part dy = load(static_cast<const T*>(op_.dy_RD) + row * D_, exists);
    const float rstd = exists ? op_.rstd_R[row] : 0.0f;
    float dot = add_products(x, dy, rstd);
    if (op_.dx_RD == nullptr) return;
    dot = place_.sum(dot, scratch, parity);
    if (exists) store_input_gradient(row, x, dy, rstd, dot * rstd * rstd / static_cast<float>(D_));
  }

  // partials[block] = sum over the rows of the block, by way of `sums`.
  __device__ void store_weight_gradient(float (&sums)[kSums]) const {
    const int rows_per_block = place_.rows_per_block;
    float* const partial = op_.partials_BD + place_.block * D_;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int feature = feature_of(i);
      if (feature >= D_) continue;
      if (rows_per_block == 1) {
        store_elements(dweight_[i], partial + feature);
      } else {
        store_elements(dweight_[i], sums + place_.group * D_ + feature);
      }
    }
    if (rows_per_block == 1) return;
    __syncthreads();
    for (int feature = static_cast<int>(threadIdx.x); feature < D_;
         feature += static_cast<int>(blockDim.x)) {
      float sum = 0;
      for (int g = 0; g < rows_per_block; ++g) sum += sums[g * D_ + feature];
      partial[feature] = sum;
    }
  }

 private:
  using Vector = Vector16<T>;
  using Part = RowPart<T, kVectors>;

  __device__ Part load(const T* row, bool exists) const {
    return Part::load(row, exists, D_, place_.lane, place_.threads_per_row);
  }
  __device__ int feature_of(int i) const {
    return (i * place_.threads_per_row + place_.lane) * kSize;
  }

  // Adds dy xhat to dweight_ and gives the sum of dy w x.
  __device__ float add_products(const Part& x, const Part& dy, float rstd) {
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float values[kSize], gradient[kSize], scale[kSize];
      x.vectors[i].unpack(values);
      dy.vectors[i].unpack(gradient);
      weight_.vectors[i].unpack(scale);
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        dot += gradient[j] * (scale[j] + op_.shift) * values[j];
        dweight_[i][j] += gradient[j] * (values[j] * rstd);
      }
    }
    return dot;
  }

  // dx = rstd (w dy - c x) + other.
  __device__ void store_input_gradient(int64_t row, Part& x, Part& dy, float rstd, float c) {
    T* const dx = static_cast<T*>(op_.dx_RD) + row * D_;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      x.vectors[i].forget_values();
      dy.vectors[i].forget_values();
      weight_.vectors[i].forget_values();
      const int feature = feature_of(i);
      float values[kSize], gradient[kSize], scale[kSize];
      x.vectors[i].unpack(values);
      dy.vectors[i].unpack(gradient);
      weight_.vectors[i].unpack(scale);
#pragma unroll
      for (int j = 0; j < kSize; ++j)
        values[j] = rstd * (gradient[j] * (scale[j] + op_.shift) - c * values[j]);
      if constexpr (kAdds) {
        // Loaded this late because registers would not do.
        Vector other;
        if (feature < D_)
          other = Vector::load_mutable(static_cast<const T*>(op_.other_RD) + row * D_ + feature);
        other.unpack(gradient);
#pragma unroll
        for (int j = 0; j < kSize; ++j) values[j] += gradient[j];
      }
      if (feature < D_) Vector::pack(values).store(dx + feature);
    }
  }

  const RmsNormBackwardCuda& op_;
  const RowPlace<kSpans>& place_;
  const int D_;
  Part weight_;
  float dweight_[kVectors][kSize] = {};
};

template <class T, int kVectors, bool kSpans, bool kAdds>
__global__ void __launch_bounds__(kRowBlockThreads<kVectors>, kRowBlocks<kVectors>)
    backward_kernel(const __grid_constant__ RmsNormBackwardCuda op, int threads_per_row) {
  using Work = BackwardWork<T, kVectors, kSpans, kAdds>;
  __shared__ float scratch[2][32];
  alignas(16) __shared__ float sums[Work::kSums];
  const RowPlace<kSpans> place(threads_per_row);
  Work work(op, place);
  const int64_t step = place.num_blocks * place.rows_per_block;
  int parity = 0;
  for (int64_t first = place.block * place.rows_per_block; first < op.num_rows; first += step) {
    work.add_row(first + place.group, scratch, parity);
    parity ^= 1;
  }
  if (op.partials_BD != nullptr) work.store_weight_gradient(sums);
}

// `kernel` takes the threads of a row after `op`.
template <class Op>
void launch_rows(const Op& op, const RowGroups& groups, void (*kernel)(Op, int),
                 StreamHandle stream) {
  if (groups.blocks_per_row == 1) {
    kernel<<<static_cast<unsigned>(groups.num_groups), groups.block_threads(), 0, stream>>>(
        op, groups.threads_per_row);
  } else {
    launch_clusters(kernel, {groups.num_groups, groups.blocks_per_row, groups.block_threads()},
                    stream, "launch rms_norm of long rows", op, groups.threads_per_row);
  }
}

template <class T>
void forward(const RmsNormForwardCuda& op, StreamHandle stream) {
  const RowGroups groups = row_groups(op.dtype, op.num_rows, op.num_features);
  const bool aligned =
      is_vector_aligned(op.x_RD) && is_vector_aligned(op.weight_D) && is_vector_aligned(op.y_RD);
  if (!aligned || groups.vectors_per_thread == 0) {
    rms_norm_wide_forward_cuda(op, stream);
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
    rms_norm_wide_backward_cuda(op, stream);
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
  add_partial_sums<float>(op.partials_BD,
                          rms_norm_num_partials(op.dtype, op.num_rows, op.num_features),
                          op.num_features, op.dweight_D, stream);
  check_launch("rms_norm weight gradient");
}

}  // namespace longship
