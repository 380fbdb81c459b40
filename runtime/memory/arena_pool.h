// A pool that cuts blocks out of a few large segments and joins neighbours again when they are
// given back: for GPUs, where asking the system takes long and waits for all work. Once a round of
// allocations has found room, a program that repeats it finds the same places again and asks no
// more.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <tuple>

#include "runtime/memory/block_pool.h"

namespace longship {

class ArenaPool final : public BlockPool {
 public:
  static constexpr int64_t kAlignment = 512;
  static constexpr int64_t kSegmentBytes = int64_t{1} << 26;  // the least to ask the source for

  using BlockPool::BlockPool;
  ~ArenaPool() override { trim(); }

  int64_t block_bytes(int64_t bytes) const override;
  // The smallest free place that is large enough, in the lowest of these addresses.
  void* take(int64_t bytes) override;
  void give(void* block, int64_t bytes, std::vector<Event> pending) override;
  // Segments of which nothing is used go back.
  void trim() override;

 private:
  struct Region {
    int64_t bytes = 0;
    int64_t segment_bytes = 0;  // of the segment that begins here; 0: none begins here
    bool free = false;
    std::vector<Event> pending;  // the last of each stream that may still use a part of it
  };
  using Regions = std::map<std::byte*, Region>;

  // Free regions are ordered so that those that need no waiting come first among equals.
  static std::tuple<int64_t, bool, std::byte*> key(const Regions::value_type& region) {
    return {region.second.bytes, !region.second.pending.empty(), region.first};
  }
  bool grow(int64_t bytes);
  void join_with_next(Regions::iterator region);

  Regions regions_;  // all of every segment, without gaps
  std::set<std::tuple<int64_t, bool, std::byte*>> free_;
};

}  // namespace longship
