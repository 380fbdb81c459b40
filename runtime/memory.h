// Tracked host memory: every tensor of a Context is allocated here, so that live and peak bytes
// are known exactly and freed blocks are reused instead of being returned to the system.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace longship {

class Memory {
 public:
  Memory() = default;
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // 64-byte aligned, uninitialised. Throws Error(kOutOfMemory) with the live and requested bytes,
  // after giving cached blocks back in vain.
  void* allocate(int64_t bytes);
  void release(void* block, int64_t bytes) noexcept;

  int64_t live_bytes() const;
  int64_t peak_bytes() const;
  // Starts a new peak measurement from the bytes that are live now.
  void reset_peak();
  // Gives cached, unused blocks back to the system.
  void trim();

 private:
  void free_cached_blocks();  // with mutex_ held

  mutable std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> free_blocks_;
  int64_t live_bytes_ = 0;
  int64_t peak_bytes_ = 0;
};

}  // namespace longship
