// How long both transports take, for TransportChoice.
#pragma once

#include <vector>

#include "parallel/cuda/gpu_link.h"

namespace longship {

// Every rank sends to the next one, in messages of several lengths up to `largest_bytes`, which
// takes a few milliseconds. The times are those of the slowest rank, the same on all. Collective;
// `link` has both transports, and has neither dropped nor chosen one afterwards.
std::vector<TransportChoice::Sample> measure_transports(const Group& hosts, GpuLink& link,
                                                        int64_t largest_bytes);

}  // namespace longship
