#include "attention/shared_rope_angles.h"

#include <algorithm>

namespace longship {
namespace {

bool same_positions(const Tensor& a_T, const Tensor& b_T) {
  return a_T.defined() && a_T.numel() == b_T.numel() &&
         std::equal(a_T.data<int64_t>(), a_T.data<int64_t>() + a_T.numel(), b_T.data<int64_t>());
}

}  // namespace

RopeAngles SharedRopeAngles::get(const Context& ctx, const SequencePlan& plan, int64_t rotary_dim,
                                 double theta, DType dtype) {
  Tensor positions_T = plan.positions(ctx);
  if (!same_positions(positions_T_, positions_T)) {
    entries_.clear();
    positions_T_ = std::move(positions_T);
  }
  for (const Entry& entry : entries_)
    if (entry.rotary_dim == rotary_dim && entry.theta == theta && entry.dtype == dtype)
      return entry.angles;
  entries_.push_back(
      {rotary_dim, theta, dtype, rope_angles(ctx, positions_T_, rotary_dim, theta, dtype)});
  return entries_.back().angles;
}

}  // namespace longship
