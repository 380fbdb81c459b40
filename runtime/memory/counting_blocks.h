// Blocks without memory behind them: with these a forward and backward can be run for its memory
// alone, for a device that need not be there.
#pragma once

#include <limits>

#include "runtime/memory/block_source.h"

namespace longship {

class CountingBlocks final : public BlockSource {
 public:
  // Has no more than `capacity_bytes` in all.
  explicit CountingBlocks(Device device,
                          int64_t capacity_bytes = std::numeric_limits<int64_t>::max() / 4)
      : device_(device), left_bytes_(capacity_bytes) {}

  Device device() const override { return device_; }
  bool has_elements() const override { return false; }
  std::string name() const override { return "planned memory of " + device_name(device_); }
  void* allocate(int64_t bytes) override;
  void free(void*) noexcept override {}
  void fill(void*, uint8_t, int64_t) override {}
  void wait_for(std::span<const Event>) override {}

 private:
  Device device_;
  int64_t left_bytes_;
  uintptr_t next_ = uintptr_t{1} << 21;  // addresses are never used twice
};

}  // namespace longship
