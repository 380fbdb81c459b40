// Blocks of ordinary host memory.
#pragma once

#include "runtime/memory/block_source.h"

namespace longship {

class HostBlocks final : public BlockSource {
 public:
  Device device() const override { return {}; }
  std::string name() const override { return "host memory"; }
  void* allocate(int64_t bytes) override;
  void free(void* block) noexcept override;
  void fill(void* block, uint8_t value, int64_t bytes) override;
  void wait_for(std::span<const Event> events) override;  // the host waits
};

}  // namespace longship
