#include "runtime/memory/counting_blocks.h"

namespace longship {

void* CountingBlocks::allocate(int64_t bytes) {
  if (bytes > left_bytes_) return nullptr;
  left_bytes_ -= bytes;
  void* const block = reinterpret_cast<void*>(next_);
  next_ += static_cast<uintptr_t>(bytes);
  return block;
}

}  // namespace longship
