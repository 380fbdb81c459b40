// A pool that keeps whole blocks and hands them out again for requests of nearly the same size: for
// host memory, where the system takes care of everything else.
#pragma once

#include <deque>
#include <map>

#include "runtime/memory/block_pool.h"

namespace longship {

class SizeClassPool final : public BlockPool {
 public:
  using BlockPool::BlockPool;
  ~SizeClassPool() override { trim(); }

  int64_t block_bytes(int64_t bytes) const override;
  // A cached block is free to be used by the host when it is returned.
  void* take(int64_t bytes) override;
  void give(void* block, int64_t bytes, std::vector<Event> pending) override;
  void trim() override;

 private:
  struct FreeBlock {
    void* block;
    std::vector<Event> pending;
  };

  void* take_cached(std::deque<FreeBlock>& blocks, std::deque<FreeBlock>::iterator chosen);

  std::map<int64_t, std::deque<FreeBlock>> free_blocks_;  // oldest first
};

}  // namespace longship
