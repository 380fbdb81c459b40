#include "runtime/ops/merge_partials.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
#include "runtime/ops/merge_partials_cuda.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

// Merges one row of V values; returns the merged lse. The weights exp(lse - lse') and
// exp(part_lse - lse') come from the difference of both sides, because lse' of a large lse is
// rounded too coarsely for exp.
template <class A, class Y, class O, class P>
A merge_row(int64_t V, Y* out, const O* o, A lse, const P* part, A part_lse) {
  constexpr A kNoKey = -std::numeric_limits<A>::infinity();
  if (part_lse == kNoKey || lse == kNoKey) {
    const bool keeps_o = part_lse == kNoKey;
    if (keeps_o && static_cast<const void*>(out) == o) return lse;
    for (int64_t v = 0; v < V; ++v)
      out[v] = static_cast<Y>(keeps_o ? static_cast<A>(o[v]) : static_cast<A>(part[v]));
    return keeps_o ? lse : part_lse;
  }
  const A ratio = std::exp(-std::abs(lse - part_lse));
  const A more = 1 / (1 + ratio);
  const A less = ratio / (1 + ratio);
  const A keep = lse > part_lse ? more : less;
  const A join = lse > part_lse ? less : more;
#pragma GCC ivdep
  for (int64_t v = 0; v < V; ++v)
    out[v] = static_cast<Y>(static_cast<A>(o[v]) * keep + static_cast<A>(part[v]) * join);
  return std::max(lse, part_lse) + std::log1p(ratio);
}

struct Merge {
  Tensor out_THV, o_THV, lse_TH, part_THV, part_lse_TH;
};

template <class Y, class O, class P>
void merge_cpu(const Context& ctx, const Merge& op) {
  using A = Accumulator<O>;
  const int64_t V = op.o_THV.dim(2);
  Y* out = op.out_THV.data<Y>();
  const O* o = op.o_THV.data<O>();
  A* lse = op.lse_TH.data<A>();
  const P* part = op.part_THV.data<P>();
  const A* part_lse = op.part_lse_TH.data<A>();
  const int64_t grain = std::max<int64_t>(1, (1 << 13) / std::max<int64_t>(1, V));
  parallel_for(ctx, op.lse_TH.numel(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      lse[row] =
          merge_row<A>(V, out + row * V, o + row * V, lse[row], part + row * V, part_lse[row]);
  });
}

// Calls f(T{}) for fp32 or bf16.
template <class F>
void dispatch_narrow(DType dtype, F&& f) {
  if (dtype == DType::kBF16)
    f(bf16{});
  else
    f(float{});
}

void merge_cpu(const Context& ctx, const Merge& op) {
  if (op.lse_TH.dtype() == DType::kF64) return merge_cpu<double, double, double>(ctx, op);
  dispatch_narrow(op.out_THV.dtype(), [&](auto out) {
    dispatch_narrow(op.o_THV.dtype(), [&](auto o) {
      dispatch_narrow(op.part_THV.dtype(), [&](auto part) {
        merge_cpu<decltype(out), decltype(o), decltype(part)>(ctx, op);
      });
    });
  });
}

void merge_cuda(const Context& ctx, const Merge& op) {
  merge_partials_cuda({.num_rows = op.lse_TH.numel(),
                       .row_length = op.o_THV.dim(2),
                       .out_dtype = op.out_THV.dtype(),
                       .o_dtype = op.o_THV.dtype(),
                       .part_dtype = op.part_THV.dtype(),
                       .out_RV = op.out_THV.address(),
                       .o_RV = op.o_THV.address(),
                       .part_RV = op.part_THV.address(),
                       .lse_R = op.lse_TH.device_data<float>(),
                       .part_lse_R = op.part_lse_TH.device_data<float>()},
                      compute_stream(ctx));
}

}  // namespace

void merge_partials(const Context& ctx, const Tensor& o_THV, const Tensor& lse_TH,
                    const Tensor& part_THV, const Tensor& part_lse_TH) {
  LONGSHIP_CHECK(o_THV.dtype() == accumulator_dtype(o_THV.dtype()), "merge in {}",
                 dtype_name(o_THV.dtype()));
  merge_partials_into(ctx, o_THV, o_THV, lse_TH, part_THV, part_lse_TH);
}

void merge_partials_into(const Context& ctx, const Tensor& out_THV, const Tensor& o_THV,
                         const Tensor& lse_TH, const Tensor& part_THV, const Tensor& part_lse_TH) {
  LONGSHIP_CHECK(o_THV.rank() == 3 && o_THV.shape() == part_THV.shape() &&
                     o_THV.shape() == out_THV.shape() && lse_TH.shape() == part_lse_TH.shape() &&
                     lse_TH.shape() == (Shape{o_THV.dim(0), o_THV.dim(1)}),
                 "merge of o {} lse {} with o {} lse {} into {}", shape_string(o_THV.shape()),
                 shape_string(lse_TH.shape()), shape_string(part_THV.shape()),
                 shape_string(part_lse_TH.shape()), shape_string(out_THV.shape()));
  for (const Tensor* tensor : {&out_THV, &o_THV, &lse_TH, &part_THV, &part_lse_TH})
    LONGSHIP_CHECK(tensor->is_contiguous() && accumulator_dtype(tensor->dtype()) == lse_TH.dtype(),
                   "merge_partials of {} {} with lse in {}: it needs contiguous tensors",
                   dtype_name(tensor->dtype()), shape_string(tensor->shape()),
                   dtype_name(lse_TH.dtype()));
  require_one_device("merge_partials", {&out_THV, &o_THV, &lse_TH, &part_THV, &part_lse_TH});
  const Merge op{out_THV, o_THV, lse_TH, part_THV, part_lse_TH};
  dispatch_device(
      out_THV, [&] { merge_cpu(ctx, op); }, [&] { merge_cuda(ctx, op); });
}

}  // namespace longship
