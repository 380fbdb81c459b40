#include "attention/mask_rectangles.h"

#include <algorithm>
#include <tuple>

namespace longship {
namespace {

// Positions [begin, end).
struct Span {
  int64_t begin, end;
  bool empty() const { return begin >= end; }
  int64_t length() const { return end - begin; }
};

// Cuts one piece along the position at which its queries or its keys end, whichever is first: up to
// there the diagonal ends in the corner, beyond it the queries lie behind all keys or the keys
// ahead of all queries. The names of all spans are of positions.
class PieceCutter {
 public:
  PieceCutter(const MaskPiece& piece, DiagonalShape shape, std::vector<MaskRectangle>& cut)
      : piece_(piece),
        squares_(shape == DiagonalShape::kSquare),
        lowest_(piece.lowest()),
        highest_(piece.highest()),
        cut_(cut) {}

  void run() {
    const Span queries = {piece_.q_position, piece_.q_position + piece_.q_length};
    const Span keys = {piece_.k_position, piece_.k_position + piece_.k_length};
    if (piece_.full()) return add(CallMask::full(), queries, keys);
    const int64_t corner = std::min(queries.end, keys.end);
    add_diagonal({queries.begin, corner}, {keys.begin, corner});
    add_behind({std::max(queries.begin, corner), queries.end}, keys);
    add_ahead(queries, {std::max(keys.begin, corner), keys.end});
  }

 private:
  void add(CallMask mask, Span queries, Span keys) {
    if (queries.empty() || keys.empty()) return;
    cut_.push_back({mask,
                    {.q_begin = piece_.q_begin + queries.begin - piece_.q_position,
                     .q_length = queries.length(),
                     .k_begin = piece_.k_begin + keys.begin - piece_.k_position,
                     .k_length = keys.length()}});
  }

  // Queries and keys end at the same position.
  void add_diagonal(Span queries, Span keys) {
    if (queries.empty() || keys.empty()) return;
    if (squares_ && queries.begin != keys.begin) {
      const int64_t corner = std::max(queries.begin, keys.begin);
      add_ahead({queries.begin, corner}, keys);
      add_behind(queries, {keys.begin, corner});
      return add_diagonal({corner, queries.end}, {corner, keys.end});
    }
    queries.begin = std::max(queries.begin, keys.begin - highest_);
    keys.begin = std::max(keys.begin, queries.begin + lowest_);
    const int64_t last = queries.end - 1;
    CallMask mask;
    if (last + lowest_ > keys.begin) mask.left = 1 - lowest_;
    if (highest_ == 0 || queries.begin + highest_ < last) mask.right = highest_;
    add(mask, queries, keys);
  }

  // All keys lie before all queries: only the lower bound hides some.
  void add_behind(Span queries, Span keys) {
    if (queries.empty() || keys.empty()) return;
    const Span seeing_all = {queries.begin, std::min(queries.end, keys.begin - lowest_ + 1)};
    add(CallMask::full(), seeing_all, keys);
    const Span seeing_some = {std::max(queries.begin, seeing_all.end),
                              std::min(queries.end, keys.end - lowest_)};
    if (seeing_some.empty()) return;
    // The key that the last query sees first ends the triangle; all see what comes after it.
    const Span common = {seeing_some.end + lowest_, keys.end};
    add({.left = 1, .right = {}}, seeing_some, {seeing_some.begin + lowest_, common.begin});
    add(CallMask::full(), seeing_some, common);
  }

  // All keys lie after all queries: only the upper bound hides some.
  void add_ahead(Span queries, Span keys) {
    if (queries.empty() || keys.empty()) return;
    const Span seeing_all = {std::max(queries.begin, keys.end - 1 - highest_), queries.end};
    add(CallMask::full(), seeing_all, keys);
    const Span seeing_some = {std::max(queries.begin, keys.begin - highest_),
                              std::min(queries.end, seeing_all.begin)};
    if (seeing_some.empty()) return;
    const Span common = {keys.begin, squares_ ? seeing_some.begin + highest_ : keys.begin};
    add(CallMask::full(), seeing_some, common);
    add(CallMask::causal(), seeing_some, {common.end, seeing_some.end + highest_});
  }

  const MaskPiece& piece_;
  bool squares_;
  int64_t lowest_, highest_;
  std::vector<MaskRectangle>& cut_;
};

// Goes over the rectangles in the order of `key` and lets each join the one before it.
template <class Key, class Join>
void join_neighbours(std::vector<MaskRectangle>& rectangles, Key&& key, Join&& join) {
  std::ranges::stable_sort(rectangles, {}, key);
  size_t kept = 0;
  for (size_t i = 1; i < rectangles.size(); ++i)
    if (!join(rectangles[kept], rectangles[i])) rectangles[++kept] = rectangles[i];
  if (!rectangles.empty()) rectangles.resize(kept + 1);
}

// Keys that follow full ones, for the same queries.
bool join_keys(DiagonalShape shape, MaskRectangle& first, const MaskRectangle& next) {
  const CallEntry &a = first.rows, &b = next.rows;
  if (a.q_begin != b.q_begin || a.q_length != b.q_length || a.k_end() != b.k_begin) return false;
  const bool joins = next.mask == CallMask::full() ||
                     (next.mask == CallMask::causal() && shape == DiagonalShape::kAny);
  if (first.mask != CallMask::full() || !joins) return false;
  first = {next.mask, {a.q_begin, a.q_length, a.k_begin, a.k_length + b.k_length}};
  return true;
}

// Queries that follow others and see the same keys, or go on with their diagonal.
bool join_queries(MaskRectangle& first, const MaskRectangle& next) {
  CallEntry& a = first.rows;
  const CallEntry& b = next.rows;
  if (first.mask != next.mask || a.q_end() != b.q_begin || a.k_begin != b.k_begin) return false;
  const bool same_keys = first.mask == CallMask::full() && a.k_length == b.k_length;
  const bool same_diagonal =
      first.mask == CallMask::causal() && a.k_end() - a.q_end() == b.k_end() - b.q_end();
  if (!same_keys && !same_diagonal) return false;
  a.q_length += b.q_length;
  a.k_length = b.k_length;
  return true;
}

}  // namespace

std::vector<MaskRectangle> mask_rectangles(const BlockMask& mask, DiagonalShape shape) {
  std::vector<MaskRectangle> rectangles;
  for (const MaskPiece& piece : mask.pieces) PieceCutter(piece, shape, rectangles).run();
  join_neighbours(
      rectangles,
      [](const MaskRectangle& r) {
        return std::tuple(r.rows.q_begin, r.rows.q_length, r.rows.k_begin);
      },
      [&](MaskRectangle& first, const MaskRectangle& next) {
        return join_keys(shape, first, next);
      });
  join_neighbours(
      rectangles,
      [](const MaskRectangle& r) { return std::tuple(r.mask, r.rows.k_begin, r.rows.q_begin); },
      join_queries);
  return rectangles;
}

}  // namespace longship
