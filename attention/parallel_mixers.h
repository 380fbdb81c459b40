// Several mixers of one layer, run on the same input, as attention beside a state-space model in
// Falcon-H1 (arXiv 2507.22448):  y = sum over n of  b_n mixer_n(a_n x).
#pragma once

#include <memory>
#include <vector>

#include "runtime/model/mixer.h"

namespace longship {

class ParallelMixers final : public Mixer {
 public:
  struct Branch {
    std::unique_ptr<Mixer> mixer;
    double input_multiplier = 1;   // a
    double output_multiplier = 1;  // b
  };

  // At least one branch.
  explicit ParallelMixers(std::vector<Branch> branches);

  // The branches run, and are added, in their order.
  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                   const Variable& residual_TE) override;

 private:
  std::vector<Branch> branches_;
};

}  // namespace longship
