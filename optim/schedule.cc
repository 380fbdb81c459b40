#include "optim/schedule.h"

#include <cmath>
#include <numbers>

#include "runtime/error.h"

namespace longship {
namespace {

void check(bool fine, const char* field, std::string expected, std::string found) {
  if (!fine)
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("learning-rate schedule: {} cannot be used", field),
                 .expected = std::move(expected),
                 .found = std::move(found),
                 .next = fmt::format("change {}", field)});
}

void check(const LearningRateSchedule& s) {
  const auto text = [](auto value) { return fmt::to_string(value); };
  check(std::isfinite(s.peak) && s.peak >= 0, "peak", "a finite rate from 0", text(s.peak));
  check(s.min_ratio >= 0 && s.min_ratio <= 1, "min_ratio", "0 to 1", text(s.min_ratio));
  check(s.total_steps >= 0, "total_steps", "0 or more", text(s.total_steps));
  check(s.warmup_steps >= 0 && s.warmup_steps <= s.total_steps, "warmup_steps",
        fmt::format("0 to total_steps ({})", s.total_steps), text(s.warmup_steps));
  const bool has_tail = s.kind == LearningRateSchedule::Kind::kWarmupStableDecay;
  check(!has_tail || (s.decay_steps >= 0 && s.decay_steps <= s.total_steps - s.warmup_steps),
        "decay_steps",
        fmt::format("0 to total_steps - warmup_steps ({})", s.total_steps - s.warmup_steps),
        text(s.decay_steps));
}

// What is left of the part of the rate that decays, 1 to 0.
double remaining(const LearningRateSchedule& s, double over) {
  if (s.kind == LearningRateSchedule::Kind::kCosine)
    return (1 + std::cos(std::numbers::pi * over)) / 2;
  return s.decay == LearningRateSchedule::Decay::kLinear ? 1 - over : 1 - std::sqrt(over);
}

}  // namespace

double learning_rate(const LearningRateSchedule& s, int64_t step) {
  check(s);
  LONGSHIP_CHECK(step >= 0, "step {}", step);
  if (step < s.warmup_steps)
    return s.peak * static_cast<double>(step + 1) / static_cast<double>(s.warmup_steps);
  if (s.kind == LearningRateSchedule::Kind::kConstant) return s.peak;
  if (step >= s.total_steps) return s.peak * s.min_ratio;
  const int64_t decay_begin = s.kind == LearningRateSchedule::Kind::kCosine
                                  ? s.warmup_steps
                                  : s.total_steps - s.decay_steps;
  if (step < decay_begin) return s.peak;
  const double over =
      static_cast<double>(step - decay_begin) / static_cast<double>(s.total_steps - decay_begin);
  return s.peak * (s.min_ratio + (1 - s.min_ratio) * remaining(s, over));
}

}  // namespace longship
