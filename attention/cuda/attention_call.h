// One launch of a GPU's attention kernel: rectangles of the score matrix under one kind of mask,
// each an entry of a ragged batch.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace longship {

// What a query of an entry sees, against the diagonal that ends in the entry's bottom right corner:
// with x = j - (i + k_length - q_length) for query i and key j of the entry, the key is seen iff
//     -left < x  (if there is a left)   and   x <= right  (if there is a right).
// These are cuDNN's band bounds with the alignment BOTTOM_RIGHT: a window of W positions, the
// query's own included, is left = W.
struct CallMask {
  std::optional<int64_t> left;   // >= 1
  std::optional<int64_t> right;  // >= 0

  static CallMask full() { return {}; }
  static CallMask causal() { return {.left = {}, .right = 0}; }
  // The last `window` keys up to the diagonal.
  static CallMask causal_window(int64_t window) { return {.left = window, .right = 0}; }

  auto operator<=>(const CallMask&) const = default;
};

// A run of queries over a run of keys. Every query of it sees at least one key; with a right bound
// and no left one, q_length <= k_length.
struct CallEntry {
  int64_t q_begin = 0, q_length = 0;  // rows of q, o, lse, do and dq; length > 0
  int64_t k_begin = 0, k_length = 0;  // rows of k, v, dk and dv; length > 0

  int64_t q_end() const { return q_begin + q_length; }
  int64_t k_end() const { return k_begin + k_length; }

  bool operator==(const CallEntry&) const = default;
};

// The entries are sorted by q_begin, and no two of them share query rows. In a call of the
// backward, no two share key rows either: the kernel writes dq, dk and dv of an entry's rows and no
// others.
struct AttentionCall {
  CallMask mask;
  std::vector<CallEntry> entries;
};

}  // namespace longship
