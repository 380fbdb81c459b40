// How fast the ranks of a group talk to each other, measured.
#pragma once

#include "parallel/group.h"
#include "runtime/context.h"

namespace longship {

struct LinkRates {
  double latency_s = 0;  // of a small message to the next rank
  // That leave a rank, when every rank sends to the next one, and when every rank sends to all.
  double shift_bytes_per_s = 0;
  double exchange_bytes_per_s = 0;
};

// Sends a few messages of up to `largest_bytes` round the ranks and between all of them, which
// takes a few milliseconds, and returns what rank 0 measured, to every rank alike. Collective; for
// at least two ranks. Bytes count under the label "link_rates".
LinkRates measure_links(const Context& ctx, const Group& group, int64_t largest_bytes = 1 << 19);

}  // namespace longship
