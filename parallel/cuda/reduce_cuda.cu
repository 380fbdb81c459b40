#include "parallel/cuda/reduce_cuda.h"

#include <algorithm>

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/vector16.cuh"

namespace longship {
namespace {

template <class T, int kSize>
struct alignas(sizeof(T) * kSize) Elements {
  T values[kSize];
};

template <class T, int kSize>
__global__ void rank_reduce_kernel(const __grid_constant__ RankReduceCuda reduce) {
  using Vector = Elements<T, kSize>;
  const int64_t num_vectors = reduce.num_elements / kSize;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < num_vectors; i += step) {
    const Vector own = static_cast<const Vector*>(reduce.own)[i];
    Vector result;
    for (int rank = 0; rank < reduce.num_ranks; ++rank) {
      const int other = rank < reduce.rank ? rank : rank - 1;
      const Vector part =
          rank == reduce.rank
              ? own
              : reinterpret_cast<const Vector*>(static_cast<const T*>(reduce.others) +
                                                other * reduce.others_stride)[i];
      if (rank == 0) {
        result = part;
        continue;
      }
#pragma unroll
      for (int k = 0; k < kSize; ++k)
        result.values[k] = combine(reduce.op, result.values[k], part.values[k]);
    }
    static_cast<Vector*>(reduce.out)[i] = result;
  }
}

template <class T, int kSize>
void launch(const RankReduceCuda& reduce, StreamHandle stream) {
  // As many bytes in flight as the GPU's memory takes, and short beside the messages around it.
  constexpr int64_t kThreads = 512, kMostBlocks = 2 * 132;
  const int64_t num_vectors = reduce.num_elements / kSize;
  const auto blocks = std::clamp<int64_t>((num_vectors + kThreads - 1) / kThreads, 1, kMostBlocks);
  rank_reduce_kernel<T, kSize>
      <<<static_cast<unsigned>(blocks), static_cast<unsigned>(kThreads), 0, stream>>>(reduce);
  check_launch("rank_reduce");
}

template <class T>
void launch(const RankReduceCuda& reduce, StreamHandle stream) {
  constexpr int kSize = 16 / sizeof(T);
  const bool in_vectors = is_vector_aligned(reduce.own) && is_vector_aligned(reduce.others) &&
                          is_vector_aligned(reduce.out) && reduce.others_stride % kSize == 0;
  RankReduceCuda rest = reduce;
  if (in_vectors && reduce.num_elements >= kSize) {
    const int64_t whole = reduce.num_elements / kSize * kSize;
    launch<T, kSize>(reduce, stream);
    rest.num_elements -= whole;
    rest.own = static_cast<const T*>(reduce.own) + whole;
    rest.others = static_cast<const T*>(reduce.others) + whole;
    rest.out = static_cast<T*>(reduce.out) + whole;
  }
  if (rest.num_elements > 0) launch<T, 1>(rest, stream);
}

}  // namespace

void rank_reduce_cuda(const RankReduceCuda& reduce, StreamHandle stream) {
  switch (reduce.dtype) {
    case DType::kF32:
      return launch<float>(reduce, stream);
    case DType::kF64:
      return launch<double>(reduce, stream);
    case DType::kI32:
      return launch<int32_t>(reduce, stream);
    case DType::kI64:
      return launch<int64_t>(reduce, stream);
    default:
      throw_unexpected_dtype(reduce.dtype);
  }
}

}  // namespace longship
