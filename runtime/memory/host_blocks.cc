#include "runtime/memory/host_blocks.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace longship {

// Large blocks ask for huge pages: kernels that walk one head of a tensor touch few bytes of each
// small page, and would wait for address translation.
void* HostBlocks::allocate(int64_t bytes) {
  constexpr int64_t kAlignment = 64, kHugePage = int64_t{1} << 21;
  if (bytes < 2 * kHugePage) return std::aligned_alloc(kAlignment, static_cast<size_t>(bytes));
  const auto whole_pages = static_cast<size_t>((bytes + kHugePage - 1) / kHugePage * kHugePage);
  void* block = std::aligned_alloc(kHugePage, whole_pages);
  // A wish only: without huge pages the block is as good, but slower.
  if (block != nullptr) madvise(block, whole_pages, MADV_HUGEPAGE);
  return block;
}

void HostBlocks::free(void* block) noexcept {
  std::free(block);
}

void HostBlocks::fill(void* block, uint8_t value, int64_t bytes) {
  std::memset(block, value, static_cast<size_t>(bytes));
}

void HostBlocks::wait_for(std::span<const Event> events) {
  for (const Event& event : events) event.synchronize();
}

}  // namespace longship
