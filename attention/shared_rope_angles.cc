#include "attention/shared_rope_angles.h"

#include <algorithm>

#include "runtime/long_lived.h"

namespace longship {

RopeAngles SharedRopeAngles::get(const Context& ctx, const SequencePlan& plan, int64_t rotary_dim,
                                 double theta, DType dtype) {
  const std::span<const Segment> segments = plan.local_segments();
  if (!std::equal(segments.begin(), segments.end(), segments_.begin(), segments_.end())) {
    entries_.clear();
    segments_.assign(segments.begin(), segments.end());
  }
  auto entry = std::ranges::find_if(entries_, [&](const Entry& known) {
    return known.rotary_dim == rotary_dim && known.theta == theta && known.dtype == dtype;
  });
  if (entry == entries_.end()) {
    const Context outer = long_lived_context(ctx);
    const auto angles = std::make_shared<const RopeAngles>(
        rope_angles(outer, plan.positions(outer), rotary_dim, theta, dtype));
    entry = entries_.insert(entry, {rotary_dim, theta, dtype, angles});
  }
  use_long_lived(ctx, entry->angles);
  return *entry->angles;
}

}  // namespace longship
