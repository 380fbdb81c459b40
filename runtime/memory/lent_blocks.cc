#include "runtime/memory/lent_blocks.h"

namespace longship {

void* LentBlocks::allocate(int64_t bytes) {
  void* const block = lender_->allocate(bytes);
  block_bytes_.emplace(block, bytes);
  return block;
}

void LentBlocks::free(void* block) noexcept {
  const auto found = block_bytes_.find(block);
  lender_->release(block, found->second);
  block_bytes_.erase(found);
}

void LentBlocks::fill(void* block, uint8_t value, int64_t bytes) {
  lender_->fill(block, value, bytes);
}

void LentBlocks::wait_for(std::span<const Event> events) {
  for (const Event& event : events)
    stream() != nullptr ? stream()->wait(event) : event.synchronize();
}

}  // namespace longship
