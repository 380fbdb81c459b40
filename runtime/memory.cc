#include "runtime/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>

#include "runtime/error.h"

namespace longship {
namespace {

constexpr int64_t kAlignment = 64;

// Far beyond any machine, and far enough below 2^63 that rounding up cannot overflow.
constexpr int64_t kMostBytes = int64_t{1} << 56;

// Sizes are rounded so that blocks are reused although shapes differ a little between batches:
// to 64 bytes when small, to an eighth of the next power of two when large.
int64_t rounded(int64_t bytes) {
  if (bytes <= 4096)
    return std::max((bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
  const int64_t step = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(bytes))) / 16;
  return (bytes + step - 1) / step * step;
}

// Null if there is none. Large blocks ask for huge pages: kernels that walk one head of a tensor
// touch few bytes of each small page, and would wait for address translation.
void* system_block(int64_t size) {
  constexpr int64_t kHugePage = int64_t{1} << 21;
  if (size < 2 * kHugePage) return std::aligned_alloc(kAlignment, static_cast<size_t>(size));
  const auto whole_pages = static_cast<size_t>((size + kHugePage - 1) / kHugePage * kHugePage);
  void* block = std::aligned_alloc(kHugePage, whole_pages);
  // A wish only: without huge pages the block is as good, but slower.
  if (block != nullptr) madvise(block, whole_pages, MADV_HUGEPAGE);
  return block;
}

}  // namespace

Memory::~Memory() {
  trim();
}

void* Memory::allocate(int64_t bytes) {
  LONGSHIP_CHECK(bytes >= 0, "negative allocation of {} bytes", bytes);
  std::lock_guard lock(mutex_);
  void* block = nullptr;
  const int64_t size = rounded(std::min(bytes, kMostBytes));
  if (auto it = free_blocks_.find(size); it != free_blocks_.end() && !it->second.empty()) {
    block = it->second.back();
    it->second.pop_back();
  } else if (bytes < kMostBytes) {
    block = system_block(size);
    if (block == nullptr) {
      free_cached_blocks();
      block = system_block(size);
    }
  }
  if (block == nullptr)
    throw Error(
        ErrorCode::kOutOfMemory,
        {.what = fmt::format("cannot allocate {:.1f} MiB of host memory", bytes / 1048576.0),
         .found = fmt::format("{:.1f} MiB already live in this rank", live_bytes_ / 1048576.0),
         .next = "use a shorter context, more ranks in `sp`, or train.recompute: true"});
  live_bytes_ += size;
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  return block;
}

void Memory::release(void* block, int64_t bytes) noexcept {
  if (block == nullptr) return;
  const int64_t size = rounded(bytes);
  std::lock_guard lock(mutex_);
  live_bytes_ -= size;
  try {
    free_blocks_[size].push_back(block);
  } catch (const std::bad_alloc&) {
    std::free(block);
  }
}

int64_t Memory::live_bytes() const {
  std::lock_guard lock(mutex_);
  return live_bytes_;
}

int64_t Memory::peak_bytes() const {
  std::lock_guard lock(mutex_);
  return peak_bytes_;
}

void Memory::reset_peak() {
  std::lock_guard lock(mutex_);
  peak_bytes_ = live_bytes_;
}

void Memory::trim() {
  std::lock_guard lock(mutex_);
  free_cached_blocks();
}

void Memory::free_cached_blocks() {
  for (auto& [size, blocks] : free_blocks_)
    for (void* block : blocks) std::free(block);
  free_blocks_.clear();
}

}  // namespace longship
