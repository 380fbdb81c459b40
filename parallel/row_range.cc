#include "parallel/row_range.h"

#include <algorithm>

namespace longship {

RowRange cover(RowRange a, RowRange b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  const int64_t begin = std::min(a.begin, b.begin);
  return {begin, std::max(a.end(), b.end()) - begin};
}

std::vector<RowRange> joined(std::vector<RowRange> ranges) {
  std::ranges::sort(ranges, {}, &RowRange::begin);
  std::vector<RowRange> apart;
  for (RowRange next : ranges) {
    if (next.count == 0) continue;
    if (!apart.empty() && next.begin <= apart.back().end())
      apart.back() = cover(apart.back(), next);
    else
      apart.push_back(next);
  }
  return apart;
}

}  // namespace longship
