// The sum of every parameter's gradient over the ranks that hold copies of it, while the backward
// is still at work on the gradients of earlier layers.
#pragma once

#include <deque>
#include <vector>

#include "parallel/group.h"
#include "runtime/model/parameter.h"

namespace longship {

struct GradientReductionOptions {
  // Gradients travel in flat buckets of about this size, several at once. Ranks must agree.
  int64_t bucket_bytes = int64_t{16} << 20;
};

// One step's reduction. Replaces the fp32 (fp64 for fp64 models) gradient of every parameter with
// its sum over `group`; a parameter that has no gradient on a rank counts as zero there, and has
// one afterwards. Sums are in rank order and do not depend on bucket_bytes or on when a gradient is
// handed over, so every rank gets the same bits in every run. Bytes are counted under "gradients":
// about 2 (size - 1) / size times the bytes of all gradients.
class GradientReduction {
 public:
  // All must outlive this object.
  GradientReduction(Context& ctx, ParameterList& parameters, const Group& group,
                    const GradientReductionOptions& options = {});
  ~GradientReduction();
  GradientReduction(const GradientReduction&) = delete;
  GradientReduction& operator=(const GradientReduction&) = delete;

  // The gradients of the parameters [first, end of those handed over before) are complete: their
  // sums may begin, beside what `ctx` computes next. Every rank calls with the same numbers.
  void begin_from(size_t first);
  // All gradients are complete; returns when the sums are, in the order of the GPU's work there.
  void finish();

 private:
  struct Bucket;

  void launch(Bucket bucket);
  void launch_packed(std::vector<Tensor> parts);
  void retire_oldest();

  Context& ctx_;
  ParameterList& parameters_;
  const Group& group_;
  GradientReductionOptions options_;
  size_t handed_over_;  // parameters from this one on
  std::deque<Bucket> in_flight_;
};

}  // namespace longship
