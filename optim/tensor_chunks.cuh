// One launch over all tensors of a model: block b works on chunk b of their elements, counted
// through a table in which every tensor says which chunk is its first.
#pragma once

#include <cstdint>

namespace longship {

// Calls f(entry, begin, end) for the elements of chunk blockIdx.x. Entries have `first_chunk`,
// which never falls, and `num_elements`.
template <class Entry, class F>
__device__ void for_own_chunk(const Entry* entries, int64_t num_entries, int64_t chunk_elements,
                              F&& f) {
  const int64_t chunk = blockIdx.x;
  int64_t low = 0, high = num_entries;  // the last entry that begins at `chunk` or before
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (entries[middle].first_chunk <= chunk ? low : high) = middle;
  }
  const Entry entry = entries[low];
  const int64_t begin = (chunk - entry.first_chunk) * chunk_elements;
  f(entry, begin, min(begin + chunk_elements, entry.num_elements));
}

}  // namespace longship
