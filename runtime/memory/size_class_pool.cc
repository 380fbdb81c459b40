#include "runtime/memory/size_class_pool.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <new>

namespace longship {
namespace {

constexpr int64_t kSmallBytes = int64_t{1} << 20;
constexpr int64_t kMostSmallBlocks = 64;  // of a size, that others still use

bool has_passed(const std::vector<Event>& events) {
  return std::all_of(events.begin(), events.end(),
                     [](const Event& event) { return event.has_passed(); });
}

}  // namespace

// Rounded so that blocks are reused although shapes differ a little between batches: to 64 bytes
// when small, to an eighth of the next power of two when large.
int64_t SizeClassPool::block_bytes(int64_t bytes) const {
  constexpr int64_t kAlignment = 64;
  if (bytes <= 4096)
    return std::max((bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
  const int64_t step = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(bytes))) / 16;
  return (bytes + step - 1) / step * step;
}

void* SizeClassPool::take(int64_t bytes) {
  const int64_t size = block_bytes(bytes);
  if (auto it = free_blocks_.find(size); it != free_blocks_.end() && !it->second.empty()) {
    std::deque<FreeBlock>& blocks = it->second;
    // The newest that nobody uses any more, which caches may still hold.
    auto ready = std::find_if(blocks.rbegin(), blocks.rend(),
                              [](const FreeBlock& free) { return has_passed(free.pending); });
    if (ready != blocks.rend()) return take_cached(blocks, std::prev(ready.base()));
    // Waiting keeps large memory small; a few small blocks more cost less than the wait.
    if (size > kSmallBytes || std::ssize(blocks) >= kMostSmallBlocks)
      return take_cached(blocks, blocks.begin());
  }
  void* const block = allocate_from_source(size);
  if (block != nullptr) return block;
  trim();
  return allocate_from_source(size);
}

void* SizeClassPool::take_cached(std::deque<FreeBlock>& blocks,
                                 std::deque<FreeBlock>::iterator chosen) {
  source().wait_for(chosen->pending);
  void* const block = chosen->block;
  blocks.erase(chosen);
  return block;
}

void SizeClassPool::give(void* block, int64_t bytes, std::vector<Event> pending) {
  const int64_t size = block_bytes(bytes);
  try {
    free_blocks_[size].push_back({block, std::move(pending)});
  } catch (const std::bad_alloc&) {
    source().wait_for(pending);
    free_to_source(block, size);
  }
}

void SizeClassPool::trim() {
  for (auto& [size, blocks] : free_blocks_) {
    for (const FreeBlock& free : blocks) {
      source().wait_for(free.pending);
      free_to_source(free.block, size);
    }
  }
  free_blocks_.clear();
}

}  // namespace longship
