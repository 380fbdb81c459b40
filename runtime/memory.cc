#include "runtime/memory.h"

#include <algorithm>

#include "runtime/error.h"
#include "runtime/memory/host_blocks.h"
#include "runtime/memory/size_class_pool.h"

namespace longship {

Memory::Memory() : Memory(std::make_unique<SizeClassPool>(std::make_unique<HostBlocks>())) {}

Memory::Memory(std::unique_ptr<BlockPool> pool)
    : pool_(std::move(pool)),
      device_(pool_->source().device()),
      has_elements_(pool_->source().has_elements()),
      stream_(pool_->source().stream()) {}

void* Memory::allocate(int64_t bytes) {
  // Far beyond any machine, and far enough below 2^63 that rounding up cannot overflow.
  constexpr int64_t kMostBytes = int64_t{1} << 56;
  LONGSHIP_CHECK(bytes >= 0, "negative allocation of {} bytes", bytes);
  std::lock_guard lock(mutex_);
  void* const block = bytes < kMostBytes ? pool_->take(bytes) : nullptr;
  if (block == nullptr) throw_out_of_memory(bytes);
  live_bytes_ += pool_->block_bytes(bytes);
  peak_bytes_ = std::max(peak_bytes_, live_bytes_);
  if (poison_) pool_->source().fill(block, 0xff, bytes);
  return block;
}

void Memory::throw_out_of_memory(int64_t bytes) const {
  const auto mebibytes = [](int64_t value) { return static_cast<double>(value) / 1048576.0; };
  const BlockSource& source = pool_->source();
  const std::string room = source.room();
  throw Error(
      ErrorCode::kOutOfMemory,
      {.what = fmt::format("cannot allocate {:.1f} MiB of {}", mebibytes(bytes), source.name()),
       .found = fmt::format("{:.1f} MiB already live in this rank, {:.1f} MiB reserved{}{}",
                            mebibytes(live_bytes_), mebibytes(pool_->reserved_bytes()),
                            room.empty() ? "" : ", ", room),
       .next = "use a shorter context, more ranks in `sp`, or train.recompute: BLOCK"});
}

void Memory::release(void* block, int64_t bytes, std::vector<Event> pending) noexcept {
  if (block == nullptr) return;
  std::lock_guard lock(mutex_);
  live_bytes_ -= pool_->block_bytes(bytes);
  pool_->give(block, bytes, std::move(pending));
}

void Memory::fill(void* block, uint8_t value, int64_t bytes) const {
  if (bytes > 0) pool_->source().fill(block, value, bytes);
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

int64_t Memory::reserved_bytes() const {
  std::lock_guard lock(mutex_);
  return pool_->reserved_bytes();
}

int64_t Memory::num_system_allocations() const {
  std::lock_guard lock(mutex_);
  return pool_->num_system_allocations();
}

void Memory::trim() {
  std::lock_guard lock(mutex_);
  pool_->trim();
}

void Memory::set_poison(bool poison) {
  std::lock_guard lock(mutex_);
  poison_ = poison;
}

}  // namespace longship
