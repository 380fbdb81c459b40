#include "parallel/row_halo.h"

#include <algorithm>

#include "parallel/cut_segments.h"

namespace longship {

RowHalo::RowHalo(const SequencePlan& plan, int64_t width, HaloSide side) : side_(side) {
  LONGSHIP_CHECK(width >= 0, "a halo of {} rows", width);
  rows_.resize(plan.local_segments().size());
  const std::vector<CutSegment> cut = cut_segments(plan);
  // Both ends of a message go through the segments in batch order, so that messages match.
  for (size_t i = 0; i < cut.size(); ++i) {
    const Segment& segment = cut[i].segment;
    const int64_t end = segment.global_begin + segment.length;
    const bool before = side == HaloSide::kBefore;
    const int64_t wanted_begin = before ? segment.global_begin - width : end;
    const int64_t wanted_end = before ? segment.global_begin : end + width;
    size_t first = before ? i : i + 1, last = first;  // of the segments that hold wanted rows
    auto holds_wanted = [&](size_t j) {
      const Segment& other = cut[j].segment;
      return other.document == segment.document && other.global_begin < wanted_end &&
             other.global_begin + other.length > wanted_begin;
    };
    while (before && first > 0 && holds_wanted(first - 1)) --first;
    while (!before && last < cut.size() && holds_wanted(last)) ++last;

    const bool is_mine = cut[i].rank == plan.rank();
    const int64_t halo_begin = num_rows_;
    for (size_t j = first; j < last; ++j) {
      const Segment& source = cut[j].segment;
      const int64_t begin = std::max(wanted_begin, source.global_begin);
      const int64_t length = std::min(wanted_end, source.global_begin + source.length) - begin;
      if (cut[j].rank == plan.rank())
        send_.push_back({cut[i].rank, {source.slot + begin - source.global_begin, length}});
      if (!is_mine) continue;
      receive_.push_back({cut[j].rank, {num_rows_, length}});
      num_rows_ += length;
    }
    if (is_mine) rows_[static_cast<size_t>(cut[i].index)] = {halo_begin, num_rows_ - halo_begin};
  }
}

Work RowHalo::exchange(const Group& group, std::string_view label, const TensorRows& x,
                       const TensorRows& halos) const {
  std::vector<P2P> batch;
  for (const Piece& piece : send_) add_send(batch, piece.peer, slice(x, piece.rows));
  for (const Piece& piece : receive_) add_receive(batch, piece.peer, slice(halos, piece.rows));
  return group.exchange(label, std::move(batch));
}

}  // namespace longship
