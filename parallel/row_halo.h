// RowHalo: the rows next to a rank's segments that other ranks hold: the last few tokens before a
// segment in its document, or the first few behind it.
#pragma once

#include <string_view>
#include <vector>

#include "parallel/group.h"
#include "parallel/sequence_plan.h"

namespace longship {

enum class HaloSide { kBefore, kBehind };

// A halo ends at the border of its document, and comes from several ranks where shards are shorter
// than it. Rows are exchanged as they are; no rank receives a row twice for one segment, but two
// segments of a rank may have halos that overlap.
class RowHalo {
 public:
  struct Rows {
    int64_t begin = 0, count = 0;
  };

  // Up to `width` >= 0 tokens on one side of every local segment.
  RowHalo(const SequencePlan& plan, int64_t width, HaloSide side);

  HaloSide side() const { return side_; }
  int64_t num_rows() const { return num_rows_; }
  // The halo of local segment n among the received rows, in batch order.
  Rows rows(int64_t n) const { return rows_[static_cast<size_t>(n)]; }

  // Starts to fill halo [num_rows(), ...] with rows of every rank's x [T, ...]; both contiguous and
  // of one dtype. Collective. Counts the rows sent to other ranks.
  Work exchange(const Group& group, std::string_view label, const Tensor& x,
                const Tensor& halo) const;

 private:
  struct Piece {
    int peer;
    int64_t begin, length;  // of x where it is sent, of the halo where it is received
  };

  HaloSide side_;
  std::vector<Rows> rows_;  // by local segment
  int64_t num_rows_ = 0;
  std::vector<Piece> send_, receive_;
};

}  // namespace longship
