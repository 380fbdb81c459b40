// Tracked memory of one device: every tensor of a Context is allocated here, so that live and peak
// bytes are known exactly and freed blocks are reused instead of being returned to the system.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/device.h"
#include "runtime/memory/block_pool.h"

namespace longship {

// A GPU's memory is reused in the order of its stream(): a block that is released may be handed out
// at once, while the GPU still works on its last use, because the next use is enqueued behind it.
// Work of another stream on a block has to begin after an event of stream() that was recorded when
// the block had been allocated, and is named at its release (see Tensor::used_on).
class Memory {
 public:
  Memory();  // of the host
  explicit Memory(std::unique_ptr<BlockPool> pool);
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Device device() const { return device_; }
  // False for planning: blocks are counted, and there is nothing behind their addresses.
  bool has_elements() const { return has_elements_; }
  // In whose order blocks are used and reused; null on the host.
  const std::shared_ptr<const Stream>& stream() const { return stream_; }

  // 64-byte aligned (a GPU: 512), uninitialised. Throws Error(kOutOfMemory) with the device and the
  // requested, live and free bytes, after giving cached blocks back in vain.
  void* allocate(int64_t bytes);
  // `pending`: events of other streams that use the block; it is not used again before them.
  void release(void* block, int64_t bytes, std::vector<Event> pending = {}) noexcept;
  // Sets `bytes` bytes, in the order of stream().
  void fill(void* block, uint8_t value, int64_t bytes) const;

  int64_t live_bytes() const;
  int64_t peak_bytes() const;
  // Starts a new peak measurement from the bytes that are live now.
  void reset_peak();
  // Got from the system, live or cached.
  int64_t reserved_bytes() const;
  // How often the system was asked since the beginning. Stays the same from the second step on.
  int64_t num_system_allocations() const;
  // Gives cached, unused blocks back to the system.
  void trim();

  // For tests: new blocks are filled with 0xff, which is NaN in every floating dtype, so that an op
  // that leaves out a part of its output is found.
  void set_poison(bool poison);

 private:
  [[noreturn]] void throw_out_of_memory(int64_t bytes) const;  // with mutex_ held

  mutable std::mutex mutex_;
  std::unique_ptr<BlockPool> pool_;
  Device device_;
  bool has_elements_;
  std::shared_ptr<const Stream> stream_;
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
  bool poison_ = false;
};

}  // namespace longship
