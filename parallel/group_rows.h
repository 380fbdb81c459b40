// Where the tokens of the ranks of a group lie when the group holds them together, in batch order.
#pragma once

#include <cstdint>
#include <vector>

namespace longship {

struct GroupRows {
  // Tokens that are neighbours on their rank and in the group.
  struct Run {
    int64_t slot = 0;    // row of the first one on its rank
    int64_t row = 0;     // row of the first one in the group
    int64_t length = 0;  // > 0

    bool operator==(const Run&) const = default;
  };

  std::vector<std::vector<Run>> of_rank;  // in the order of slots, which is that of rows too
  int64_t num_rows = 0;                   // of the group
};

}  // namespace longship
