#include "attention/shared_rope_angles.h"

#include <algorithm>

namespace longship {

RopeAngles SharedRopeAngles::get(const Context& ctx, const SequencePlan& plan, int64_t rotary_dim,
                                 double theta, DType dtype) {
  const std::span<const Segment> segments = plan.local_segments();
  if (!std::equal(segments.begin(), segments.end(), segments_.begin(), segments_.end())) {
    entries_.clear();
    segments_.assign(segments.begin(), segments.end());
  }
  for (const Entry& entry : entries_)
    if (entry.rotary_dim == rotary_dim && entry.theta == theta && entry.dtype == dtype)
      return entry.angles;
  entries_.push_back(
      {rotary_dim, theta, dtype, rope_angles(ctx, plan.positions(ctx), rotary_dim, theta, dtype)});
  return entries_.back().angles;
}

}  // namespace longship
