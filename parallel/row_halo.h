// RowHalo: the last few tokens before each segment of a rank in its document, or the first few
// behind it, which other ranks hold, or other segments of this one.
#pragma once

#include <string_view>
#include <vector>

#include "parallel/sequence_plan.h"
#include "parallel/tensor_rows.h"

namespace longship {

enum class HaloSide { kBefore, kBehind };

// A halo ends at the border of its document, and comes from several ranks where shards are shorter
// than it. Rows are exchanged as they are; no rank receives a row twice for one segment, but two
// segments of a rank may have halos that overlap.
class RowHalo {
 public:
  // Up to `width` >= 0 tokens on one side of every local segment.
  RowHalo(const SequencePlan& plan, int64_t width, HaloSide side);

  HaloSide side() const { return side_; }
  int64_t num_rows() const { return num_rows_; }
  // The halo of local segment n among the received rows, in batch order.
  RowRange rows(int64_t n) const { return rows_[static_cast<size_t>(n)]; }

  // Starts to fill every halo [num_rows(), ...] with rows of all ranks' x [T, ...] of the same
  // place; both contiguous and of one dtype. One batch with a message per tensor and run of rows.
  // Collective. Counts the rows sent to other ranks.
  Work exchange(const Group& group, std::string_view label, const TensorRows& x,
                const TensorRows& halos) const;

 private:
  struct Piece {
    int peer;
    RowRange rows;  // of x where it is sent, of the halo where it is received
  };

  HaloSide side_;
  std::vector<RowRange> rows_;  // by local segment
  int64_t num_rows_ = 0;
  std::vector<Piece> send_, receive_;
};

}  // namespace longship
