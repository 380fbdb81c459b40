#include "parallel/softmax_block.h"

#include <algorithm>
#include <tuple>

namespace longship {

BlockMask causal_document_mask(std::span<const Segment> queries, std::span<const Segment> keys,
                               int64_t window) {
  LONGSHIP_CHECK(window >= 0, "window of {} keys", window);
  auto document_order = [](const Segment& a, const Segment& b) {
    return std::tie(a.document, a.position) < std::tie(b.document, b.position);
  };
  std::vector<Segment> by_document(keys.begin(), keys.end());
  std::sort(by_document.begin(), by_document.end(), document_order);
  std::vector<Segment> by_row(queries.begin(), queries.end());
  std::sort(by_row.begin(), by_row.end(),
            [](const Segment& a, const Segment& b) { return a.slot < b.slot; });

  BlockMask mask{.pieces = {}, .window = window};
  for (const Segment& query : by_row) {
    const int64_t last_query = query.position + query.length - 1;
    auto key = std::lower_bound(by_document.begin(), by_document.end(),
                                Segment{.document = query.document}, document_order);
    for (; key != by_document.end() && key->document == query.document; ++key) {
      if (key->position > last_query) break;
      const int64_t last_key = key->position + key->length - 1;
      if (window > 0 && query.position - last_key >= window) continue;
      mask.pieces.push_back({.q_begin = query.slot,
                             .q_length = query.length,
                             .q_position = query.position,
                             .k_begin = key->slot,
                             .k_length = key->length,
                             .k_position = key->position});
    }
  }
  return mask;
}

std::vector<int64_t> grouped_kv_heads(int64_t num_heads, int64_t num_kv_heads) {
  LONGSHIP_CHECK(num_kv_heads > 0 && num_heads % num_kv_heads == 0,
                 "{} query heads over {} key/value heads", num_heads, num_kv_heads);
  std::vector<int64_t> kv_head(static_cast<size_t>(num_heads));
  for (int64_t h = 0; h < num_heads; ++h)
    kv_head[static_cast<size_t>(h)] = h * num_kv_heads / num_heads;
  return kv_head;
}

}  // namespace longship
