// Where a flat row of parameters is cut into one piece per rank.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace longship {

// The place of a parameter in a flat tensor, in elements.
struct FlatPlace {
  int64_t begin = 0;
  int64_t num_elements = 0;

  int64_t end() const { return begin + num_elements; }
};

// num_ranks + 1 ascending numbers from 0 to `size`: piece r is [cuts[r], cuts[r + 1]). `places`
// ascend in [0, size). Pieces are as equal as they can be while a cut falls on the beginning of a
// parameter or a multiple of kPieceElements behind it; a piece may be empty.
std::vector<int64_t> shard_cuts(std::span<const FlatPlace> places, int64_t size, int num_ranks);

}  // namespace longship
