#include "runtime/strided_copy.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "runtime/copy_axes.h"
#include "runtime/error.h"

namespace longship {
namespace {

// The copy as nested loops, outermost first: rows and columns are the two innermost.
struct Loops {
  std::vector<CopyAxis> outer;
  CopyAxis rows, columns;
};

Loops plan_loops(std::vector<CopyAxis> axes) {
  Loops loops{{}, {}, {1, 1, 1}};
  if (!axes.empty()) {
    loops.columns = axes.back();
    axes.pop_back();
  }
  if (!axes.empty()) {
    // Without runs, rows are the axis along which `from` is densest: tiles of rows and columns then
    // use whole cache lines on both sides.
    auto rows = axes.end() - 1;
    if (!loops.columns.is_run())
      rows = std::min_element(axes.begin(), axes.end(), [](const CopyAxis& a, const CopyAxis& b) {
        return a.from_stride < b.from_stride;
      });
    loops.rows = *rows;
    axes.erase(rows);
  }
  loops.outer = std::move(axes);
  return loops;
}

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<To, bf16> || std::is_same_v<From, bf16>) {
    return static_cast<To>(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

template <class To, class From>
void copy_run(To* __restrict to, const From* __restrict from, int64_t count) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(To));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = convert<To>(from[i]);
  }
}

template <class To, class From>
void copy_tile(To* to, const From* from, const CopyAxis& rows, const CopyAxis& columns) {
  for (int64_t row = 0; row < rows.extent; ++row) {
    To* to_row = to + row * rows.to_stride;
    const From* from_row = from + row * rows.from_stride;
    if (columns.is_run()) {
      copy_run(to_row, from_row, columns.extent);
    } else {
      for (int64_t column = 0; column < columns.extent; ++column)
        to_row[column * columns.to_stride] = convert<To>(from_row[column * columns.from_stride]);
    }
  }
}

template <class To, class From>
void copy_elements(const Loops& loops, To* to, const From* from) {
  constexpr int64_t kRunTile = 1 << 14, kThreadedElements = 1 << 17;
  // As many lines as an L1 set has ways: with strides that are powers of two they share a set.
  constexpr int64_t kSquareTile = 8;
  const CopyAxis &rows = loops.rows, &columns = loops.columns;
  int64_t tile_rows = kSquareTile, tile_columns = kSquareTile;
  if (columns.is_run()) {
    tile_columns = std::min(columns.extent, kRunTile);
    tile_rows = kRunTile / tile_columns;
  }
  const int64_t row_tiles = (rows.extent + tile_rows - 1) / tile_rows;
  const int64_t column_tiles = (columns.extent + tile_columns - 1) / tile_columns;
  int64_t num_tiles = row_tiles * column_tiles, num_elements = rows.extent * columns.extent;
  for (const CopyAxis& axis : loops.outer) {
    num_tiles *= axis.extent;
    num_elements *= axis.extent;
  }
#pragma omp parallel for schedule(static) if (num_elements >= kThreadedElements)
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int64_t column = tile % column_tiles * tile_columns;
    const int64_t row = tile / column_tiles % row_tiles * tile_rows;
    int64_t to_offset = row * rows.to_stride + column * columns.to_stride;
    int64_t from_offset = row * rows.from_stride + column * columns.from_stride;
    int64_t rest = tile / column_tiles / row_tiles;
    for (size_t i = loops.outer.size(); i-- > 0;) {
      const CopyAxis& axis = loops.outer[i];
      to_offset += rest % axis.extent * axis.to_stride;
      from_offset += rest % axis.extent * axis.from_stride;
      rest /= axis.extent;
    }
    CopyAxis part_rows = rows, part_columns = columns;
    part_rows.extent = std::min(tile_rows, rows.extent - row);
    part_columns.extent = std::min(tile_columns, columns.extent - column);
    copy_tile(to + to_offset, from + from_offset, part_rows, part_columns);
  }
}

template <class To, class From>
void copy_typed(const Loops& loops, const StridedView& to, const StridedView& from) {
  copy_elements(loops, reinterpret_cast<To*>(to.data), reinterpret_cast<const From*>(from.data));
}

}  // namespace

void strided_copy(const std::vector<int64_t>& shape, const StridedView& to,
                  const StridedView& from) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return;
  const Loops loops = plan_loops(joined_copy_axes(shape, to.strides, from.strides));
  if (is_floating(to.dtype) && is_floating(from.dtype)) {
    dispatch_floating(to.dtype, [&](auto to_tag) {
      dispatch_floating(from.dtype, [&](auto from_tag) {
        copy_typed<decltype(to_tag), decltype(from_tag)>(loops, to, from);
      });
    });
    return;
  }
  LONGSHIP_CHECK(to.dtype == from.dtype, "copy of {} into {}", dtype_name(from.dtype),
                 dtype_name(to.dtype));
  switch (to.dtype) {
    case DType::kI32:
      return copy_typed<int32_t, int32_t>(loops, to, from);
    case DType::kI64:
      return copy_typed<int64_t, int64_t>(loops, to, from);
    default:
      return copy_typed<uint8_t, uint8_t>(loops, to, from);
  }
}

}  // namespace longship
