#include "parallel/visible_pairs.h"

#include <algorithm>

namespace longship {
namespace {

// Pairs of a row i < rows and a column j < columns with j - i <= diagonal.
int64_t pairs_up_to(int64_t diagonal, int64_t rows, int64_t columns) {
  diagonal = std::clamp(diagonal, -rows, columns);
  const int64_t first = std::max<int64_t>(-diagonal, 0);  // row that sees one column or more
  const int64_t whole = std::clamp(columns - diagonal, first, rows);  // row that sees all
  const int64_t partial = whole - first;
  return partial * (diagonal + 1) + partial * (first + whole - 1) / 2 + (rows - whole) * columns;
}

}  // namespace

int64_t num_visible_pairs(const BlockMask& mask) {
  int64_t count = 0;
  for (const MaskPiece& piece : mask.pieces) {
    const int64_t shift = piece.q_position - piece.k_position;
    count += pairs_up_to(piece.highest() + shift, piece.q_length, piece.k_length) -
             pairs_up_to(piece.lowest() + shift - 1, piece.q_length, piece.k_length);
  }
  return count;
}

int64_t num_visible_pairs(const SequencePlan& plan, const MaskRule& rule) {
  return num_visible_pairs(*rank_mask(plan.coarsened(plan.num_ranks()), 0, 0, rule));
}

}  // namespace longship
