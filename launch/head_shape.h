// The heads of attention as command lines write them: "32/8x128".
#pragma once

#include <cstdint>
#include <string>

namespace longship {

struct HeadShape {
  int64_t num_heads = 0, num_kv_heads = 0, head_size = 0;

  std::string name() const;
};

// Query heads / key-value heads x head size; without the last part, heads of 128. Throws
// Error(kConfig) for anything else, and for query heads that are no multiple of the others.
HeadShape parse_head_shape(const std::string& text);

}  // namespace longship
