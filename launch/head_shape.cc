#include "launch/head_shape.h"

#include <charconv>

#include "runtime/error.h"

namespace longship {

std::string HeadShape::name() const {
  return fmt::format("{}/{}x{}", num_heads, num_kv_heads, head_size);
}

HeadShape parse_head_shape(const std::string& text) {
  const char* next = text.data();
  const char* const end = next + text.size();
  // A number, and what stands before it.
  auto read = [&](const char* before, int64_t& value) {
    if (*before != 0 && (next == end || *next++ != *before)) return false;
    const auto result = std::from_chars(next, end, value);
    next = result.ptr;
    return result.ec == std::errc{} && value > 0;
  };
  HeadShape shape;
  bool good = read("", shape.num_heads) && read("/", shape.num_kv_heads);
  if (next == end) {
    shape.head_size = 128;
  } else {
    good = good && read("x", shape.head_size);
  }
  if (!good || next != end)
    throw Error(ErrorCode::kConfig,
                {.what = "--heads",
                 .expected = "query heads / key-value heads x head size, such as 32/8x128",
                 .found = text});
  if (shape.num_heads % shape.num_kv_heads != 0)
    throw Error(ErrorCode::kConfig, {.what = "--heads",
                                     .expected = "query heads a multiple of the key-value heads",
                                     .found = text});
  return shape;
}

}  // namespace longship
