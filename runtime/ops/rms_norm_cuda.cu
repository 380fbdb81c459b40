// R rows, D features, B blocks of rows. Rows that fit stay within a multiprocessor, or a cluster of
// them, between the reduction and the result (see RowGroups), so that each element crosses memory
// once; the others, longer or without alignment, go to rms_norm_wide_cuda.h.
#include "runtime/ops/rms_norm_cuda.h"

#include <string_view>
#include <type_traits>

#include "runtime/cuda/cluster.cuh"
#include "runtime/cuda/launch.cuh"
#include "runtime/cuda/partial_sums.cuh"
#include "runtime/cuda/row_prefetch.cuh"
#include "runtime/cuda/row_sum.cuh"
#include "runtime/cuda/vector16.cuh"
#include "runtime/ops/rms_norm_wide_cuda.h"

namespace longship {
namespace {

template <int kVectors>
constexpr int kBlockThreads = row_block_threads(kVectors);
template <int kVectors>
constexpr int kBlocks = resident_row_blocks(kVectors);

// Where a thread works (see RowGroups). kSpans: a row is a cluster's.
template <class T, int kVectors, bool kSpans>
struct RowPlace {
  int lane = 0;  // within a row
  int threads_per_row = 0;
  int group = 0;  // within a block
  int rows_per_block = 1;
  int block = 0;  // of rows
  int step = 0;   // rows from round to round

  // `threads` of a row, which is a warp's at three vectors: known beforehand.
  __device__ explicit RowPlace(int threads) : threads_per_row(kVectors == 3 ? 32 : threads) {
    const int thread = static_cast<int>(threadIdx.x), block_threads = static_cast<int>(blockDim.x);
    int num_blocks = static_cast<int>(gridDim.x);
    if constexpr (kSpans) {
      const auto cluster = cooperative_groups::this_cluster();
      const auto blocks = static_cast<int>(cluster.num_blocks());
      lane = static_cast<int>(cluster.block_rank()) * block_threads + thread;
      block = static_cast<int>(blockIdx.x) / blocks;
      num_blocks /= blocks;
      cluster.sync();  // its blocks run: sum() may be called
    } else {
      lane = thread % threads_per_row;
      group = thread / threads_per_row;
      rows_per_block = block_threads / threads_per_row;
      block = static_cast<int>(blockIdx.x);
    }
    step = num_blocks * rows_per_block;
  }

  __device__ int first_row() const { return block * rows_per_block; }  // of the block
  // Of this thread's elements of a row of D, the first: in the row, and in the tensor.
  __device__ int first_feature() const { return lane * Vector16<T>::kSize; }
  __device__ int64_t first_element(int row, int D) const {
    return int64_t{row} * D + first_feature();
  }

  // Over the threads of the row.
  __device__ float sum(float value, float (&scratch)[2][32], int parity) const {
    if constexpr (kSpans)
      return cluster_sum(row_sum(value, static_cast<int>(blockDim.x), scratch, parity), parity);
    return row_sum(value, threads_per_row, scratch, parity);
  }
};

// The weight's part that this thread multiplies with: zeros beyond the row.
template <class T, int kVectors>
struct WeightPart {
  Vector16<T> vectors[kVectors];

  template <class Rows>
  __device__ WeightPart(const void* weight_D, int first_feature, const Rows& rows) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      if (rows.exists(i))
        vectors[i] =
            Vector16<T>::load(static_cast<const T*>(weight_D) + first_feature + rows.offset(i));
  }
};

template <class T, int kVectors>
using ForwardRows = RowPrefetch<T, kRmsNormForwardRows.num_tensors, kVectors>;

template <class T, int kVectors, bool kSpans>
__global__ void __launch_bounds__(kBlockThreads<kVectors>, kBlocks<kVectors>)
    forward_kernel(const __grid_constant__ RmsNormForwardCuda op, int threads_per_row) {
  using Vector = Vector16<T>;
  extern __shared__ uint4 memory[];
  __shared__ float scratch[2][32];
  const int R = static_cast<int>(op.num_rows), D = static_cast<int>(op.num_features);
  const RowPlace<T, kVectors, kSpans> place(threads_per_row);
  ForwardRows<T, kVectors> rows(memory, D, place.lane, place.threads_per_row);
  const auto load = [&](int row, int stage) {
    if (row < R) rows.load(stage, 0, static_cast<const T*>(op.x_RD) + place.first_element(row, D));
    rows.commit();
  };
  int stage = 0;
  load(place.first_row() + place.group, stage);
  const WeightPart<T, kVectors> weight(op.weight_D, place.first_feature(), rows);
  for (int block_row = place.first_row(); block_row < R; block_row += place.step) {
    const int row = block_row + place.group;
    load(row + place.step, stage ^ 1);
    rows.wait();
    float square = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float values[Vector::kSize];
      rows.vector(stage, 0, i).unpack(values);
#pragma unroll
      for (int j = 0; j < Vector::kSize; ++j) square += values[j] * values[j];
    }
    // Where there is no such row, that of an earlier one, which nobody uses.
    square = place.sum(square, scratch, stage);
    const float rstd = 1.0f / sqrtf(square / static_cast<float>(D) + op.eps);
    if (row < R) {
      if (place.lane == 0) op.rstd_R[row] = rstd;
      T* const y = static_cast<T*>(op.y_RD) + place.first_element(row, D);
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        float values[Vector::kSize], scale[Vector::kSize];
        rows.vector(stage, 0, i).unpack(values);
        weight.vectors[i].unpack(scale);
#pragma unroll
        for (int j = 0; j < Vector::kSize; ++j) values[j] *= rstd * (scale[j] + op.shift);
        if (rows.exists(i)) Vector::pack(values).store(y + rows.offset(i));
      }
    }
    stage ^= 1;
  }
}

// A thread's work on the gradients of its rows, with w = weight + shift and xhat = x rstd:
//   dx = rstd (w dy - xhat mean(w dy xhat)) + other, if kAdds
//   dweight = sum over rows of dy xhat
template <class T, int kVectors, bool kSpans, bool kAdds>
class BackwardWork {
 public:
  using Place = RowPlace<T, kVectors, kSpans>;
  using Rows = RowPrefetch<T, kRmsNormBackwardRows.num_tensors + (kAdds ? 1 : 0), kVectors>;

  // `memory`: Rows::bytes() of shared memory.
  __device__ BackwardWork(const RmsNormBackwardCuda& op, const Place& place, uint4* memory)
      : op_(op),
        place_(place),
        R_(static_cast<int>(op.num_rows)),
        D_(static_cast<int>(op.num_features)),
        rows_(memory, D_, place.lane, place.threads_per_row) {}

  // All rows of this thread. All threads of the block call it.
  __device__ void add_rows(float (&scratch)[2][32]) {
    int stage = 0;
    load(place_.first_row() + place_.group, stage);
    const Weight weight(op_.weight_D, place_.first_feature(), rows_);
    for (int block_row = place_.first_row(); block_row < R_; block_row += place_.step) {
      const int row = block_row + place_.group;
      load(row + place_.step, stage ^ 1);
      rows_.wait();
      const float rstd = rows_.number(stage);
      float dot = 0;
      if (row < R_) dot = add_products(stage, weight, rstd);
      if (op_.dx_RD != nullptr) {
        dot = place_.sum(dot, scratch, stage);
        if (row < R_)
          store_input_gradient(row, stage, weight, rstd,
                               dot * rstd * rstd / static_cast<float>(D_));
      }
      stage ^= 1;
    }
  }

  // partials[block] = sum over the rows of the block. Takes `memory` for it.
  __device__ void store_weight_gradient(uint4* memory) const {
    float* const sums = reinterpret_cast<float*>(memory);
    float* const partial = op_.partials_BD + int64_t{place_.block} * D_;
    const bool is_alone = place_.rows_per_block == 1;
    if (!is_alone) __syncthreads();  // others have read their last rows
    float* const to = (is_alone ? partial : sums + place_.group * D_) + place_.first_feature();
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      if (rows_.exists(i)) store_elements(dweight_[i], to + rows_.offset(i));
    if (is_alone) return;
    __syncthreads();
    constexpr int kColumns = 4;
    for (int feature = static_cast<int>(threadIdx.x) * kColumns; feature < D_;
         feature += static_cast<int>(blockDim.x) * kColumns) {
      float sum[kColumns] = {};
#pragma unroll 4
      for (int g = 0; g < place_.rows_per_block; ++g) {
        float part[kColumns];
        load_elements(sums + g * D_ + feature, part);
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[j] += part[j];
      }
      store_elements(sum, partial + feature);
    }
  }

 private:
  using Vector = Vector16<T>;
  using Weight = WeightPart<T, kVectors>;
  static constexpr int kSize = Vector::kSize;
  enum Loaded { kX, kDy, kOther };

  __device__ void load(int row, int stage) {
    if (row < R_) {
      const int64_t first = place_.first_element(row, D_);
      rows_.load(stage, kX, static_cast<const T*>(op_.x_RD) + first);
      rows_.load(stage, kDy, static_cast<const T*>(op_.dy_RD) + first);
      if constexpr (kAdds) rows_.load(stage, kOther, static_cast<const T*>(op_.other_RD) + first);
      rows_.load_number(stage, op_.rstd_R + row);
    }
    rows_.commit();
  }

  // Adds dy xhat to dweight_ and gives the sum of dy w x.
  __device__ float add_products(int stage, const Weight& weight, float rstd) {
    float dot = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float values[kSize], gradient[kSize], scale[kSize];
      rows_.vector(stage, kX, i).unpack(values);
      rows_.vector(stage, kDy, i).unpack(gradient);
      weight.vectors[i].unpack(scale);
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        const float product = gradient[j] * values[j];
        dot += product * (scale[j] + op_.shift);
        dweight_[i][j] += product * rstd;
      }
    }
    return dot;
  }

  // dx = rstd (w dy - c x) + other.
  __device__ void store_input_gradient(int row, int stage, const Weight& weight, float rstd,
                                       float c) {
    T* const dx = static_cast<T*>(op_.dx_RD) + place_.first_element(row, D_);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float values[kSize], gradient[kSize], scale[kSize], other[kSize] = {};
      rows_.vector(stage, kX, i).unpack(values);
      rows_.vector(stage, kDy, i).unpack(gradient);
      weight.vectors[i].unpack(scale);
      if constexpr (kAdds) rows_.vector(stage, kOther, i).unpack(other);
#pragma unroll
      for (int j = 0; j < kSize; ++j) {
        const float inner = gradient[j] * (scale[j] + op_.shift) - c * values[j];
        values[j] = kAdds ? rstd * inner + other[j] : rstd * inner;
      }
      if (rows_.exists(i)) Vector::pack(values).store(dx + rows_.offset(i));
    }
  }

  const RmsNormBackwardCuda& op_;
  const Place& place_;
  const int R_, D_;
  Rows rows_;
  float dweight_[kVectors][kSize] = {};
};

template <class T, int kVectors, bool kSpans, bool kAdds>
__global__ void __launch_bounds__(kBlockThreads<kVectors>, kBlocks<kVectors>)
    backward_kernel(const __grid_constant__ RmsNormBackwardCuda op, int threads_per_row) {
  extern __shared__ uint4 memory[];
  __shared__ float scratch[2][32];
  const RowPlace<T, kVectors, kSpans> place(threads_per_row);
  BackwardWork<T, kVectors, kSpans, kAdds> work(op, place, memory);
  allow_next_kernel();
  work.add_rows(scratch);
  if (op.partials_BD != nullptr) work.store_weight_gradient(memory);
}

// A kernel for rows of `groups`, which takes their threads_per_row after `op`.
template <class Op>
struct RowKernel {
  void (*function)(Op, int) = nullptr;
  size_t shared_bytes = 0;

  void launch(const Op& op, const RowGroups& groups, StreamHandle stream,
              std::string_view name) const {
    launch_kernel(function,
                  {.grid = static_cast<unsigned>(groups.num_groups * groups.blocks_per_row),
                   .block = static_cast<unsigned>(groups.block_threads()),
                   .cluster_blocks = groups.blocks_per_row,
                   .shared_bytes = shared_bytes},
                  stream, name, op, groups.threads_per_row);
  }
};

// Calls f(vectors, spans): the number of vectors a thread and whether a row is a cluster's, as
// types.
template <RowKernelTraits kTraits, class F>
auto dispatch_row_groups(const RowGroups& groups, const F& f) {
  using std::integral_constant;
  constexpr int kLong = kTraits.long_row_vectors;
  if (groups.blocks_per_row > 1) return f(integral_constant<int, kLong>(), std::true_type());
  switch (groups.vectors_per_thread) {
    case 1:
      return f(integral_constant<int, 1>(), std::false_type());
    case 2:
      return f(integral_constant<int, 2>(), std::false_type());
    case 3:
      return f(integral_constant<int, 3>(), std::false_type());
    default:
      return f(integral_constant<int, kLong>(), std::false_type());
  }
}

template <class T>
RowKernel<RmsNormForwardCuda> row_forward(const RowGroups& groups) {
  return dispatch_row_groups<kRmsNormForwardRows>(groups, [&](auto vectors, auto spans) {
    return RowKernel<RmsNormForwardCuda>{forward_kernel<T, vectors, spans>,
                                         ForwardRows<T, vectors>::bytes(groups.block_threads())};
  });
}

template <class T, bool kAdds>
RowKernel<RmsNormBackwardCuda> row_backward(const RowGroups& groups) {
  return dispatch_row_groups<kRmsNormBackwardRows>(groups, [&](auto vectors, auto spans) {
    return RowKernel<RmsNormBackwardCuda>{
        backward_kernel<T, vectors, spans, kAdds>,
        BackwardWork<T, vectors, spans, kAdds>::Rows::bytes(groups.block_threads())};
  });
}

template <class T>
void forward(const RmsNormForwardCuda& op, StreamHandle stream) {
  const RowGroups groups = rms_norm_forward_groups(op.dtype, op.num_rows, op.num_features);
  const bool aligned =
      is_vector_aligned(op.x_RD) && is_vector_aligned(op.weight_D) && is_vector_aligned(op.y_RD);
  if (!aligned || groups.vectors_per_thread == 0) {
    rms_norm_wide_forward_cuda(op, stream);
    check_launch("rms_norm forward");
  } else {
    row_forward<T>(groups).launch(op, groups, stream, "launch rms_norm forward");
  }
}

template <class T>
void backward(const RmsNormBackwardCuda& op, StreamHandle stream) {
  const RowGroups groups = rms_norm_backward_groups(op.dtype, op.num_rows, op.num_features);
  const bool aligned = is_vector_aligned(op.x_RD) && is_vector_aligned(op.weight_D) &&
                       is_vector_aligned(op.dy_RD) && is_vector_aligned(op.dx_RD) &&
                       is_vector_aligned(op.other_RD);
  if (!aligned || groups.vectors_per_thread == 0) {
    rms_norm_wide_backward_cuda(op, stream);
    check_launch("rms_norm backward");
  } else {
    const auto kernel =
        op.other_RD != nullptr ? row_backward<T, true>(groups) : row_backward<T, false>(groups);
    kernel.launch(op, groups, stream, "launch rms_norm backward");
  }
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
}

}  // namespace longship
