#include "parallel/softmax_block.h"

#include "runtime/ops/softmax_delta.h"

namespace longship {

Tensor row_term_of(const Context& ctx, const SoftmaxBlock& kernel, const Tensor& o_THV,
                   const Tensor& do_THV) {
  return kernel.row_term() == RowTerm::kOutput ? o_THV : softmax_delta(ctx, o_THV, do_THV);
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
