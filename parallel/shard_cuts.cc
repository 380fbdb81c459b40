#include "parallel/shard_cuts.h"

#include <algorithm>

#include "runtime/error.h"
#include "runtime/model/parameter.h"

namespace longship {
namespace {

// The allowed cut nearest to `wish`, the lower one of two.
int64_t nearest_cut(std::span<const FlatPlace> places, int64_t size, int64_t wish) {
  const auto after = std::ranges::upper_bound(places, wish, {}, &FlatPlace::begin);
  if (after == places.begin()) return 0;
  const FlatPlace& place = *(after - 1);
  const int64_t inside = std::min(wish - place.begin, std::max<int64_t>(place.num_elements - 1, 0));
  const int64_t low = place.begin + inside / kPieceElements * kPieceElements;
  const int64_t next_place = after == places.end() ? size : after->begin;
  const int64_t high = low + kPieceElements < place.end() ? low + kPieceElements : next_place;
  return wish - low <= high - wish ? low : high;
}

}  // namespace

std::vector<int64_t> shard_cuts(std::span<const FlatPlace> places, int64_t size, int num_ranks) {
  LONGSHIP_CHECK(num_ranks >= 1 && size >= 0, "{} elements for {} ranks", size, num_ranks);
  std::vector<int64_t> cuts;
  for (int rank = 0; rank < num_ranks; ++rank) {
    // Without size * rank, which might overflow.
    const int64_t wish = size / num_ranks * rank + size % num_ranks * rank / num_ranks;
    cuts.push_back(nearest_cut(places, size, wish));
  }
  cuts.push_back(size);
  return cuts;
}

}  // namespace longship
