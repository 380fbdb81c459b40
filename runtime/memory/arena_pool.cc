#include "runtime/memory/arena_pool.h"

#include <algorithm>
#include <iterator>

#include "runtime/error.h"

namespace longship {
namespace {

int64_t round_up(int64_t bytes, int64_t step) {
  return (bytes + step - 1) / step * step;
}

// Adds `more` to `events`, which keep only the last event of each stream.
void merge(std::vector<Event>& events, std::vector<Event> more) {
  for (Event& event : more) {
    auto same = std::find_if(events.begin(), events.end(),
                             [&](const Event& other) { return other.is_on_stream_of(event); });
    if (same == events.end()) {
      events.push_back(std::move(event));
    } else if (same->is_before(event)) {
      *same = std::move(event);
    }
  }
}

}  // namespace

int64_t ArenaPool::block_bytes(int64_t bytes) const {
  return std::max(round_up(bytes, kAlignment), kAlignment);
}

void* ArenaPool::take(int64_t bytes) {
  const int64_t size = block_bytes(bytes);
  auto found = free_.lower_bound({size, false, nullptr});
  if (found == free_.end()) {
    if (!grow(size)) return nullptr;
    found = free_.lower_bound({size, false, nullptr});
  }
  const auto chosen = regions_.find(std::get<std::byte*>(*found));
  free_.erase(found);
  auto& [address, region] = *chosen;
  source().wait_for(region.pending);
  region.pending.clear();
  region.free = false;
  if (region.bytes > size) {
    const auto rest = regions_.emplace(address + size, Region{region.bytes - size, 0, true, {}});
    region.bytes = size;
    free_.insert(key(*rest.first));
  }
  return address;
}

void ArenaPool::give(void* block, int64_t bytes, std::vector<Event> pending) {
  auto region = regions_.find(static_cast<std::byte*>(block));
  LONGSHIP_CHECK(region != regions_.end() && !region->second.free &&
                     region->second.bytes == block_bytes(bytes),
                 "a block of {} bytes that was not taken is given back", bytes);
  region->second.free = true;
  merge(region->second.pending, std::move(pending));
  join_with_next(region);
  if (region != regions_.begin() && std::prev(region)->second.free &&
      region->second.segment_bytes == 0) {
    region = std::prev(region);
    free_.erase(key(*region));
    join_with_next(region);
  }
  free_.insert(key(*region));
}

// `region` is free and not in free_.
void ArenaPool::join_with_next(Regions::iterator region) {
  const auto next = std::next(region);
  if (next == regions_.end() || next->second.segment_bytes != 0 || !next->second.free) return;
  // The one given back last is in no set either.
  free_.erase(key(*next));
  region->second.bytes += next->second.bytes;
  merge(region->second.pending, std::move(next->second.pending));
  regions_.erase(next);
}

bool ArenaPool::grow(int64_t bytes) {
  constexpr int64_t kPage = int64_t{1} << 21;  // GPUs hand out whole pages of this size
  int64_t size = std::max(round_up(bytes, kPage), kSegmentBytes);
  void* segment = allocate_from_source(size);
  if (segment == nullptr) {
    trim();
    segment = allocate_from_source(size);
  }
  if (segment == nullptr) {
    size = round_up(bytes, kPage);
    segment = allocate_from_source(size);
  }
  if (segment == nullptr) return false;
  const auto region =
      regions_.emplace(static_cast<std::byte*>(segment), Region{size, size, true, {}});
  free_.insert(key(*region.first));
  return true;
}

void ArenaPool::trim() {
  for (auto it = regions_.begin(); it != regions_.end();) {
    const Region& region = it->second;
    if (!region.free || region.bytes != region.segment_bytes) {
      ++it;
      continue;
    }
    source().wait_for(region.pending);
    free_.erase(key(*it));
    free_to_source(it->first, region.bytes);
    it = regions_.erase(it);
  }
}

}  // namespace longship
