#include "runtime/ops/merge_partials.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/parallel_for.h"

namespace longship {
namespace {

// Merges one row of V values; returns the merged lse. The weights exp(lse - lse') and
// exp(part_lse - lse') come from the difference of both sides, because lse' of a large lse is
// rounded too coarsely for exp.
template <class A>
A merge_row(int64_t V, A* o, A lse, const A* part, A part_lse) {
  constexpr A kNoKey = -std::numeric_limits<A>::infinity();
  if (part_lse == kNoKey) return lse;
  if (lse == kNoKey) {
    std::copy(part, part + V, o);
    return part_lse;
  }
  const A ratio = std::exp(-std::abs(lse - part_lse));
  const A more = 1 / (1 + ratio);
  const A less = ratio / (1 + ratio);
  const A keep = lse > part_lse ? more : less;
  const A join = lse > part_lse ? less : more;
#pragma GCC ivdep
  for (int64_t v = 0; v < V; ++v) o[v] = o[v] * keep + part[v] * join;
  return std::max(lse, part_lse) + std::log1p(ratio);
}

}  // namespace

void merge_partials(const Context& ctx, const Tensor& o_THV, const Tensor& lse_TH,
                    const Tensor& part_THV, const Tensor& part_lse_TH) {
  LONGSHIP_CHECK(o_THV.rank() == 3 && o_THV.shape() == part_THV.shape() &&
                     lse_TH.shape() == part_lse_TH.shape() &&
                     lse_TH.shape() == (Shape{o_THV.dim(0), o_THV.dim(1)}),
                 "merge of o {} lse {} with o {} lse {}", shape_string(o_THV.shape()),
                 shape_string(lse_TH.shape()), shape_string(part_THV.shape()),
                 shape_string(part_lse_TH.shape()));
  LONGSHIP_CHECK(o_THV.is_contiguous() && lse_TH.is_contiguous() && part_THV.is_contiguous() &&
                     part_lse_TH.is_contiguous(),
                 "merge_partials needs contiguous tensors");
  LONGSHIP_CHECK(o_THV.dtype() == accumulator_dtype(o_THV.dtype()), "merge in {}",
                 dtype_name(o_THV.dtype()));
  const int64_t V = o_THV.dim(2);
  dispatch_floating(o_THV.dtype(), [&](auto tag) {
    using A = Accumulator<decltype(tag)>;
    A* o = o_THV.data<A>();
    A* lse = lse_TH.data<A>();
    const A* part = part_THV.data<A>();
    const A* part_lse = part_lse_TH.data<A>();
    const int64_t grain = std::max<int64_t>(1, (1 << 13) / std::max<int64_t>(1, V));
    parallel_for(ctx, lse_TH.numel(), grain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        lse[row] = merge_row(V, o + row * V, lse[row], part + row * V, part_lse[row]);
    });
  });
}

}  // namespace longship
