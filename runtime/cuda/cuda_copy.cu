#include "runtime/cuda/cuda_copy.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "runtime/cuda/cuda_error.h"

namespace longship {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 4;  // of a thread at a time

template <class To, class From>
__device__ To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<To, __nv_bfloat16>) {
    return __float2bfloat16_rn(static_cast<float>(value));
  } else if constexpr (std::is_same_v<From, __nv_bfloat16>) {
    return static_cast<To>(__bfloat162float(value));
  } else {
    return static_cast<To>(value);
  }
}

struct Offsets {
  int64_t to = 0, from = 0;
};

// Of the first element of a row. Divisions cost the most here: Index is of 32 bits if that will do.
template <class Index>
__device__ Offsets row_offsets(const CudaStridedCopy& copy, Index row) {
  Offsets offsets;
  for (int i = copy.num_axes - 2; i >= 0; --i) {
    const auto extent = static_cast<Index>(copy.axes[i].extent);
    const Index rest = row / extent;
    const auto index = static_cast<int64_t>(row - rest * extent);
    row = rest;
    offsets.to += index * copy.axes[i].to_stride;
    offsets.from += index * copy.axes[i].from_stride;
  }
  return offsets;
}

// Columns, the last axis, lie along the threads of a block, so that the divisions that find a row
// are done once for many elements. A thread has kRows rows at a time, so that enough bytes are on
// their way.
template <class To, class From, class Index>
__global__ void __launch_bounds__(kThreads)
    strided_copy_kernel(const __grid_constant__ CudaStridedCopy copy) {
  const CopyAxis columns = copy.axes[copy.num_axes - 1];
  const int64_t num_rows = copy.num_elements / columns.extent;
  const int64_t step = int64_t{gridDim.x} * (blockDim.y * kRows);
  for (int64_t first = int64_t{blockIdx.x} * (blockDim.y * kRows) + threadIdx.y; first < num_rows;
       first += step) {
    bool exists[kRows];
    To* to[kRows];
    const From* from[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = first + r * int64_t{blockDim.y};
      exists[r] = row < num_rows;
      const Offsets offsets = row_offsets(copy, static_cast<Index>(exists[r] ? row : first));
      to[r] = static_cast<To*>(copy.to) + offsets.to;
      from[r] = static_cast<const From*>(copy.from) + offsets.from;
    }
    for (int64_t column = int64_t{blockIdx.y} * blockDim.x + threadIdx.x; column < columns.extent;
         column += int64_t{gridDim.y} * blockDim.x) {
      From values[kRows] = {};
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (exists[r]) values[r] = from[r][column * columns.from_stride];
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (exists[r]) to[r][column * columns.to_stride] = convert<To>(values[r]);
    }
  }
}

template <class To, class From>
void launch(const CudaStridedCopy& copy, StreamHandle stream) {
  constexpr int64_t kMostRowBlocks = int64_t{1} << 30, kMostColumnBlocks = 65535;
  const int64_t num_columns = copy.axes[copy.num_axes - 1].extent;
  const int64_t num_rows = copy.num_elements / num_columns;
  int64_t threads_x = 1;
  while (threads_x < kThreads && threads_x < num_columns) threads_x *= 2;
  const dim3 block(static_cast<unsigned>(threads_x), static_cast<unsigned>(kThreads / threads_x));
  const int64_t block_rows = int64_t{block.y} * kRows;
  const dim3 grid(
      static_cast<unsigned>(std::min((num_rows + block_rows - 1) / block_rows, kMostRowBlocks)),
      static_cast<unsigned>(std::min((num_columns + block.x - 1) / block.x, kMostColumnBlocks)));
  const auto kernel = num_rows <= INT32_MAX ? strided_copy_kernel<To, From, uint32_t>
                                            : strided_copy_kernel<To, From, uint64_t>;
  kernel<<<grid, block, 0, stream>>>(copy);
  check_launch("strided_copy");
}

template <class To>
void launch_from(const CudaStridedCopy& copy, StreamHandle stream) {
  switch (copy.from_dtype) {
    case DType::kF32:
      return launch<To, float>(copy, stream);
    case DType::kBF16:
      return launch<To, __nv_bfloat16>(copy, stream);
    default:
      return launch<To, double>(copy, stream);
  }
}

// Whether a copy of elements of `size` bytes can be made of words of `word` bytes.
bool consists_of_words(const CudaStridedCopy& copy, int64_t size, int64_t word) {
  const CopyAxis& columns = copy.axes[copy.num_axes - 1];
  const bool is_aligned = reinterpret_cast<uintptr_t>(copy.to) % word == 0 &&
                          reinterpret_cast<uintptr_t>(copy.from) % word == 0;
  if (!is_aligned || !columns.is_run() || columns.extent * size % word != 0) return false;
  return std::all_of(copy.axes, copy.axes + copy.num_axes - 1, [&](const CopyAxis& axis) {
    return axis.to_stride * size % word == 0 && axis.from_stride * size % word == 0;
  });
}

// Between equal dtypes: bytes, in the widest words that there are.
void copy_words(CudaStridedCopy copy, StreamHandle stream) {
  const int64_t size = dtype_size(copy.to_dtype);
  int64_t word = size;
  while (word < 16 && consists_of_words(copy, size, 2 * word)) word *= 2;
  copy.num_elements = copy.num_elements * size / word;
  CopyAxis* const columns = copy.axes + copy.num_axes - 1;
  if (word > size) columns->extent = columns->extent * size / word;
  for (CopyAxis* axis = copy.axes; axis < columns; ++axis) {
    axis->to_stride = axis->to_stride * size / word;
    axis->from_stride = axis->from_stride * size / word;
  }
  switch (word) {
    case 1:
      return launch<uint8_t, uint8_t>(copy, stream);
    case 2:
      return launch<uint16_t, uint16_t>(copy, stream);
    case 4:
      return launch<uint32_t, uint32_t>(copy, stream);
    case 8:
      return launch<uint64_t, uint64_t>(copy, stream);
    default:
      return launch<uint4, uint4>(copy, stream);
  }
}

}  // namespace

void enqueue_copy(void* to, const void* from, int64_t bytes, StreamHandle stream) {
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream),
             "copy a tensor");
}

void enqueue_row_copy(const CudaRowCopy& copy, StreamHandle stream) {
  if (copy.num_rows == 1) return enqueue_copy(copy.to, copy.from, copy.row_bytes, stream);
  check_cuda(
      cudaMemcpy2DAsync(copy.to, static_cast<size_t>(copy.to_pitch), copy.from,
                        static_cast<size_t>(copy.from_pitch), static_cast<size_t>(copy.row_bytes),
                        static_cast<size_t>(copy.num_rows), cudaMemcpyDefault, stream),
      "copy rows of a tensor");
}

void enqueue_row_copy_kernel(const CudaRowCopy& copy, StreamHandle stream) {
  CudaStridedCopy bytes{.to = copy.to,
                        .from = copy.from,
                        .to_dtype = DType::kU8,
                        .from_dtype = DType::kU8,
                        .num_elements = copy.num_rows * copy.row_bytes};
  if (copy.num_rows > 1)
    bytes.axes[bytes.num_axes++] = {copy.num_rows, copy.to_pitch, copy.from_pitch};
  bytes.axes[bytes.num_axes++] = {copy.row_bytes, 1, 1};
  copy_words(bytes, stream);
}

void enqueue_strided_copy(const CudaStridedCopy& copy, StreamHandle stream) {
  CudaStridedCopy nested = copy;
  if (nested.num_axes == 0) nested.axes[nested.num_axes++] = CopyAxis{1, 1, 1};
  if (nested.to_dtype == nested.from_dtype) return copy_words(nested, stream);
  switch (nested.to_dtype) {
    case DType::kF32:
      return launch_from<float>(nested, stream);
    case DType::kBF16:
      return launch_from<__nv_bfloat16>(nested, stream);
    default:
      return launch_from<double>(nested, stream);
  }
}

}  // namespace longship
