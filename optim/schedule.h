// Learning-rate schedules, pure functions of the step.
#pragma once

#include <cstdint>

namespace longship {

struct LearningRateSchedule {
  enum class Kind {
    kConstant,
    kCosine,            // Loshchilov & Hutter, SGDR, ICLR 2017 (one cycle)
    kWarmupStableDecay  // Hu et al., MiniCPM, 2024; decay forms of Hägele et al., 2024
  };
  enum class Decay { kLinear, kOneMinusSqrt };

  Kind kind = Kind::kCosine;
  double peak = 3e-4;
  int64_t total_steps = 0;
  int64_t warmup_steps = 0;  // all kinds: linear from peak / warmup_steps up to peak
  int64_t decay_steps = 0;   // warm-up-stable-decay: length of the tail
  Decay decay = Decay::kLinear;
  double min_ratio = 0.1;  // the end of the decay, as a part of peak
};

// The rate for update number `step` (0 is the first). With u the part of the decay that is over,
//   cosine: peak * (min_ratio + (1 - min_ratio) * (1 + cos(pi u)) / 2)
//   linear: peak * (min_ratio + (1 - min_ratio) * (1 - u)),  1-sqrt: the same with 1 - sqrt(u).
// From total_steps on a rate that decays stays at peak * min_ratio. Throws Error(kConfig) naming
// the field when the schedule makes no sense (negative counts, warm-up and decay longer than the
// run, ...).
double learning_rate(const LearningRateSchedule& schedule, int64_t step);

}  // namespace longship
