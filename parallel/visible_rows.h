// Which rows of one rank's queries see which rows of another rank's keys: what a schedule has to
// move between them, and nothing more.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "parallel/document_mask.h"
#include "parallel/row_range.h"

namespace longship {

// Local rows (slots) of a rank whose queries and of a rank whose keys meet. Each is the smallest
// range that covers them; both count 0 when the mask hides all keys.
struct VisibleRows {
  RowRange queries, keys;
  bool empty() const { return keys.count == 0; }
};

// The rows of a rectangle whose queries see a key of it, and whose keys a query of it sees.
VisibleRows visible_rows(const MaskPiece& piece);

// Of every pair of ranks.
class Visibility {
 public:
  explicit Visibility(const SequencePlan& plan, const MaskRule& rule = {});

  // Queries on one rank, keys on the other (or the same).
  const VisibleRows& between(int query_rank, int key_rank) const {
    return pairs_[pair(query_rank, key_rank)];
  }
  // Exactly the rows of `key_rank` whose keys some query of `query_rank` sees; joined().
  const std::vector<RowRange>& keys(int query_rank, int key_rank) const {
    return keys_[pair(query_rank, key_rank)];
  }

 private:
  size_t pair(int query_rank, int key_rank) const {
    return static_cast<size_t>(query_rank * num_ranks_ + key_rank);
  }

  int num_ranks_;
  std::vector<VisibleRows> pairs_;
  std::vector<std::vector<RowRange>> keys_;
};

// Of a plan and its copies, made once.
std::shared_ptr<const Visibility> visibility_of(const SequencePlan& plan, const MaskRule& rule);

// The parts of segments that lie in `rows`; slots count from the first of these rows.
std::vector<Segment> segments_in(std::span<const Segment> segments, RowRange rows);

}  // namespace longship
