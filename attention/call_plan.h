// Which attention calls compute a mask, and in which order: what the kernel of a GPU does of a
// block.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <vector>

#include "attention/mask_rectangles.h"
#include "parallel/row_range.h"

namespace longship {

struct CallPlanOptions {
  // The backward of a kernel writes key rows too, so that the entries of a round share none; and it
  // visits what lies above a bottom-right diagonal, so that diagonals are those of squares.
  bool backward = false;
  // Causal rectangles of more queries are cut into tiles of query rows: a causal one each for the
  // last keys and a full one for all keys before them, which runs faster than a very long causal
  // one, in less workspace.
  int64_t longest_causal = 131072;
  int64_t tile_rows = 32768;

  // What is fastest with cuDNN 9.19 on an H200 under a sustained load.
  static CallPlanOptions fastest(bool backward, int64_t head_size);

  auto operator<=>(const CallPlanOptions&) const = default;
};

// Calls that write different rows of the same tensors: each query row is in one entry at most, and
// in the backward so is each key row.
struct CallRound {
  std::vector<AttentionCall> calls;     // of different masks
  std::vector<RowRange> queries, keys;  // that they cover; joined()
};

// Results of the rounds are merged or added in their order.
struct CallPlan {
  std::vector<CallRound> rounds;

  static CallPlan make(const BlockMask& mask, const CallPlanOptions& options);
  // The same, made once for `mask`.
  static std::shared_ptr<const CallPlan> of(const BlockMask& mask, const CallPlanOptions& options);
};

}  // namespace longship
