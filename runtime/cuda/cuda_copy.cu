#include "runtime/cuda/cuda_copy.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <type_traits>

#include "runtime/cuda/cuda_error.h"

namespace longship {
namespace {

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

// Columns, the last axis, lie along the threads of a block, so that the divisions that find a row
// are done once for many elements.
template <class To, class From>
__global__ void strided_copy_kernel(const __grid_constant__ CudaStridedCopy copy) {
  const CopyAxis columns = copy.axes[copy.num_axes - 1];
  const int64_t num_rows = copy.num_elements / columns.extent;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row < num_rows;
       row += static_cast<int64_t>(gridDim.x) * blockDim.y) {
    int64_t rest = row, to_offset = 0, from_offset = 0;
    for (int i = copy.num_axes - 2; i >= 0; --i) {
      const int64_t index = rest % copy.axes[i].extent;
      rest /= copy.axes[i].extent;
      to_offset += index * copy.axes[i].to_stride;
      from_offset += index * copy.axes[i].from_stride;
    }
    To* const to = static_cast<To*>(copy.to) + to_offset;
    const From* const from = static_cast<const From*>(copy.from) + from_offset;
    for (int64_t column = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
         column < columns.extent; column += static_cast<int64_t>(gridDim.y) * blockDim.x)
      to[column * columns.to_stride] = convert<To>(from[column * columns.from_stride]);
  }
}

template <class To, class From>
void launch(const CudaStridedCopy& copy, StreamHandle stream) {
  constexpr int64_t kThreads = 256, kMostBlocks = 4096;
  const int64_t num_columns = copy.axes[copy.num_axes - 1].extent;
  const int64_t num_rows = copy.num_elements / num_columns;
  int64_t threads_x = 1;
  while (threads_x < kThreads && threads_x < num_columns) threads_x *= 2;
  const dim3 block(static_cast<unsigned>(threads_x), static_cast<unsigned>(kThreads / threads_x));
  const int64_t blocks_x = std::min<int64_t>((num_rows + block.y - 1) / block.y, kMostBlocks);
  const int64_t blocks_y =
      std::min<int64_t>((num_columns + block.x - 1) / block.x, 1 + kMostBlocks / blocks_x);
  const dim3 grid(static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y));
  strided_copy_kernel<To, From><<<grid, block, 0, stream>>>(copy);
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

}  // namespace

void enqueue_copy(void* to, const void* from, int64_t bytes, StreamHandle stream) {
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream),
             "copy a tensor");
}

void enqueue_row_copy(const RowCopy& copy, StreamHandle stream) {
  check_cuda(cudaMemcpy2DAsync(copy.to, static_cast<size_t>(copy.to_pitch_bytes), copy.from,
                               static_cast<size_t>(copy.from_pitch_bytes),
                               static_cast<size_t>(copy.row_bytes),
                               static_cast<size_t>(copy.num_rows), cudaMemcpyDefault, stream),
             "copy rows of a tensor");
}

void enqueue_strided_copy(const CudaStridedCopy& copy, StreamHandle stream) {
  CudaStridedCopy nested = copy;
  if (nested.num_axes == 0) nested.axes[nested.num_axes++] = CopyAxis{1, 1, 1};
  switch (nested.to_dtype) {
    case DType::kF32:
      return launch_from<float>(nested, stream);
    case DType::kBF16:
      return launch_from<__nv_bfloat16>(nested, stream);
    case DType::kF64:
      return launch_from<double>(nested, stream);
    case DType::kI32:
      return launch<int32_t, int32_t>(nested, stream);
    case DType::kI64:
      return launch<int64_t, int64_t>(nested, stream);
    case DType::kU8:
      return launch<uint8_t, uint8_t>(nested, stream);
  }
}

}  // namespace longship
