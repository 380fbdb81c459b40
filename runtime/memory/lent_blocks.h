// Blocks lent by another Memory: for work that keeps a pool of its own there.
#pragma once

#include <map>
#include <memory>

#include "runtime/memory.h"
#include "runtime/memory/block_source.h"

namespace longship {

// They count as live in `lender`, and are used in the order of its stream.
class LentBlocks final : public BlockSource {
 public:
  explicit LentBlocks(std::shared_ptr<Memory> lender) : lender_(std::move(lender)) {}

  Device device() const override { return lender_->device(); }
  bool has_elements() const override { return lender_->has_elements(); }
  std::shared_ptr<const Stream> stream() const override { return lender_->stream(); }
  std::string name() const override { return "memory lent on " + device_name(device()); }
  // Where the lender has none left, its Error(kOutOfMemory): a pool does not give blocks back in
  // the hope of others.
  void* allocate(int64_t bytes) override;
  void free(void* block) noexcept override;
  void fill(void* block, uint8_t value, int64_t bytes) override;
  void wait_for(std::span<const Event> events) override;

 private:
  std::shared_ptr<Memory> lender_;
  std::map<void*, int64_t> block_bytes_;
};

}  // namespace longship
