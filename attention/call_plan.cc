#include "attention/call_plan.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace longship {
namespace {

// Adds the tiles of one causal rectangle.
void add_tiles(const CallEntry& whole, int64_t tile_rows, std::vector<MaskRectangle>& tiles) {
  int64_t earlier = whole.k_length - whole.q_length;  // keys before the diagonal of the tile
  for (int64_t begin = 0; begin < whole.q_length; begin += tile_rows) {
    const int64_t q_begin = whole.q_begin + begin;
    const int64_t length = std::min(tile_rows, whole.q_length - begin);
    if (earlier > 0) tiles.push_back({CallMask::full(), {q_begin, length, whole.k_begin, earlier}});
    tiles.push_back({CallMask::causal(), {q_begin, length, whole.k_begin + earlier, length}});
    earlier += length;
  }
}

std::vector<MaskRectangle> tiled(std::vector<MaskRectangle> rectangles,
                                 const CallPlanOptions& options) {
  std::vector<MaskRectangle> tiles;
  for (const MaskRectangle& rectangle : rectangles)
    if (rectangle.mask == CallMask::causal() && rectangle.rows.q_length > options.longest_causal)
      add_tiles(rectangle.rows, options.tile_rows, tiles);
    else
      tiles.push_back(rectangle);
  return tiles;
}

// Row ranges that do not overlap, in any order of coming.
class TakenRows {
 public:
  bool overlap(int64_t begin, int64_t end) const {
    const auto next = ends_.lower_bound(begin);
    if (next != ends_.end() && next->first < end) return true;
    return next != ends_.begin() && std::prev(next)->second > begin;
  }
  void take(int64_t begin, int64_t end) { ends_.emplace(begin, end); }

  std::vector<RowRange> ranges() const {
    std::vector<RowRange> rows;
    for (auto [begin, end] : ends_) rows.push_back({begin, end - begin});
    return joined(std::move(rows));
  }

 private:
  std::map<int64_t, int64_t> ends_;  // by begin
};

// A round while it is filled.
class OpenRound {
 public:
  bool fits(const CallEntry& rows, bool distinct_keys) const {
    return !queries_.overlap(rows.q_begin, rows.q_end()) &&
           !(distinct_keys && keys_.overlap(rows.k_begin, rows.k_end()));
  }
  void add(const MaskRectangle& rectangle) {
    const CallEntry& rows = rectangle.rows;
    entries_[rectangle.mask].push_back(rows);
    queries_.take(rows.q_begin, rows.q_end());
    key_ranges_.push_back({rows.k_begin, rows.k_length});
    keys_.take(rows.k_begin, rows.k_end());
  }

  CallRound close() && {
    CallRound round = {
        .calls = {}, .queries = queries_.ranges(), .keys = joined(std::move(key_ranges_))};
    join_single_queries();
    for (auto& [mask, entries] : entries_) {
      std::ranges::sort(entries, {}, &CallEntry::q_begin);
      round.calls.push_back({mask, std::move(entries)});
    }
    return round;
  }

 private:
  // A single query sees all keys of a causal rectangle: where there is a causal call anyway, full
  // rectangles of one query, such as documents of one token, need no other.
  void join_single_queries() {
    const auto full = entries_.find(CallMask::full()), causal = entries_.find(CallMask::causal());
    if (full == entries_.end() || causal == entries_.end()) return;
    const auto single = std::ranges::stable_partition(
        full->second, [](const CallEntry& rows) { return rows.q_length > 1; });
    causal->second.insert(causal->second.end(), single.begin(), single.end());
    full->second.erase(single.begin(), single.end());
    if (full->second.empty()) entries_.erase(full);
  }

  std::map<CallMask, std::vector<CallEntry>> entries_;
  TakenRows queries_, keys_;
  std::vector<RowRange> key_ranges_;
};

}  // namespace

// Of 128K tokens, tiles take 6% off the forward of heads of 128 and nothing off that of heads of
// 64; 3% off the backward of heads of 64, while that of heads of 128 slows down by 1%.
CallPlanOptions CallPlanOptions::fastest(bool backward, int64_t head_size) {
  const bool gains_early = backward ? head_size <= 64 : head_size >= 128;
  return {.backward = backward, .longest_causal = gains_early ? 65536 : 131072};
}

CallPlan CallPlan::make(const BlockMask& mask, const CallPlanOptions& options) {
  const DiagonalShape shape = options.backward ? DiagonalShape::kSquare : DiagonalShape::kAny;
  std::vector<MaskRectangle> rectangles = tiled(mask_rectangles(mask, shape), options);
  // Those with the diagonal come first for their queries, so that rounds hold calls of like masks.
  std::ranges::stable_sort(rectangles, {}, [](const MaskRectangle& r) {
    return std::tuple(r.rows.q_begin, r.mask == CallMask::full(), r.rows.k_begin);
  });
  std::vector<OpenRound> open;
  for (const MaskRectangle& rectangle : rectangles) {
    auto round = std::ranges::find_if(open, [&](const OpenRound& candidate) {
      return candidate.fits(rectangle.rows, options.backward);
    });
    if (round == open.end()) round = open.emplace(open.end());
    round->add(rectangle);
  }
  CallPlan plan;
  for (OpenRound& round : open) plan.rounds.push_back(std::move(round).close());
  return plan;
}

std::shared_ptr<const CallPlan> CallPlan::of(const BlockMask& mask,
                                             const CallPlanOptions& options) {
  return mask.memo.get<CallPlan>(options, [&] { return make(mask, options); });
}

}  // namespace longship
