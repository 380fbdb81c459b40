// The sum of every parameter's gradient over the ranks that hold copies of it (data parallelism).
#pragma once

#include "parallel/group.h"
#include "runtime/model/parameter.h"

namespace longship {

struct GradientReduction {
  // Gradients travel in flat buckets of about this size, several at once. Ranks must agree.
  int64_t bucket_bytes = int64_t{16} << 20;
};

// Replaces the fp32 (fp64 for fp64 models) gradient of every parameter with its sum over `group`;
// blocks until all are complete, or on GPUs lets the compute stream wait for them. A parameter that
// has no gradient on a rank counts as zero there, and has one afterwards. Sums are in rank order
// and do not depend on bucket_bytes, so every rank gets the same bits in every run. Bytes are
// counted under "gradients": about 2 (size - 1) / size times the bytes of all gradients.
void all_reduce_gradients(Context& ctx, ParameterList& parameters, const Group& group,
                          const GradientReduction& options = {});

}  // namespace longship
