// Keeps the blocks that a BlockSource gave, and hands them out again.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/memory/block_source.h"

namespace longship {

// Used by one thread at a time: a Memory guards its pool.
class BlockPool {
 public:
  explicit BlockPool(std::unique_ptr<BlockSource> source) : source_(std::move(source)) {}
  virtual ~BlockPool() = default;
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // What a request for `bytes` really takes.
  virtual int64_t block_bytes(int64_t bytes) const = 0;
  // Null if the source has none left, even after all unused blocks went back to it.
  virtual void* take(int64_t bytes) = 0;
  // `pending`: what other streams still do with the block. It is not used again before that.
  virtual void give(void* block, int64_t bytes, std::vector<Event> pending) = 0;
  // Unused blocks go back to the source.
  virtual void trim() = 0;

  BlockSource& source() const { return *source_; }
  // Held from the source, used or not.
  int64_t reserved_bytes() const { return reserved_bytes_; }
  // How often the source was asked with success.
  int64_t num_system_allocations() const { return num_system_allocations_; }

 protected:
  void* allocate_from_source(int64_t bytes) {
    void* const block = source_->allocate(bytes);
    if (block == nullptr) return nullptr;
    reserved_bytes_ += bytes;
    ++num_system_allocations_;
    return block;
  }
  void free_to_source(void* block, int64_t bytes) {
    source_->free(block);
    reserved_bytes_ -= bytes;
  }

 private:
  std::unique_ptr<BlockSource> source_;
  int64_t reserved_bytes_ = 0;
  int64_t num_system_allocations_ = 0;
};

}  // namespace longship
