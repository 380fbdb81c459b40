#include "parallel/reduce_kernel.h"

#include <algorithm>
#include <array>

namespace longship {
namespace {

template <ReduceOp op, class T>
void reduce(std::byte* out, std::span<const std::byte* const> sources, int64_t count) {
  // Tiles stay in cache while all sources pass; a tile of its own lets `out` alias any source.
  constexpr int64_t kTile = 2048;
  std::array<T, kTile> tile;
  for (int64_t begin = 0; begin < count; begin += kTile) {
    const int64_t length = std::min(kTile, count - begin);
    std::copy_n(reinterpret_cast<const T*>(sources[0]) + begin, length, tile.begin());
    for (const std::byte* source : sources.subspan(1)) {
      const T* values = reinterpret_cast<const T*>(source) + begin;
      for (int64_t i = 0; i < length; ++i)
        tile[static_cast<size_t>(i)] = combine(op, tile[static_cast<size_t>(i)], values[i]);
    }
    std::copy_n(tile.begin(), length, reinterpret_cast<T*>(out) + begin);
  }
}

template <class T>
void reduce(ReduceOp op, std::byte* out, std::span<const std::byte* const> sources, int64_t count) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce<ReduceOp::kSum, T>(out, sources, count);
    case ReduceOp::kMax:
      return reduce<ReduceOp::kMax, T>(out, sources, count);
    case ReduceOp::kMin:
      return reduce<ReduceOp::kMin, T>(out, sources, count);
  }
}

}  // namespace

void reduce_in_order(ReduceOp op, DType dtype, std::byte* out,
                     std::span<const std::byte* const> sources, int64_t count) {
  switch (dtype) {
    case DType::kF32:
      return reduce<float>(op, out, sources, count);
    case DType::kF64:
      return reduce<double>(op, out, sources, count);
    case DType::kI32:
      return reduce<int32_t>(op, out, sources, count);
    case DType::kI64:
      return reduce<int64_t>(op, out, sources, count);
    default:
      LONGSHIP_CHECK(false, "{} cannot be reduced", dtype_name(dtype));
  }
}

}  // namespace longship
