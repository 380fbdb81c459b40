#include "runtime/telemetry/progress_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace longship {
namespace {

// A norm may span many decades; the column stays seven wide.
std::string short_norm(double value) {
  const bool plain = value == 0 || (value >= 0.01 && value < 10000);
  return plain ? fmt::format("{:>7.2f}", value) : fmt::format("{:>7.1e}", value);
}

struct Scaled {
  double value;
  const char* unit;
};

Scaled scale(double value) {
  constexpr std::array<const char*, 5> kUnits = {"", "k", "M", "G", "T"};
  size_t unit = 0;
  // From 999.5 on, rounding would print four digits.
  for (; value >= 999.5 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return {value, kUnits[unit]};
}

}  // namespace

std::string short_count(double value) {
  const auto [scaled, unit] = scale(value);
  const int digits = scaled >= 99.95 || (scaled == std::floor(scaled) && *unit == '\0') ? 0
                     : scaled >= 9.995                                                  ? 1
                                                                                        : 2;
  return fmt::format("{:.{}f}{}", scaled, digits, unit);
}

std::string short_bytes(int64_t bytes) {
  const auto [scaled, unit] = scale(static_cast<double>(bytes));
  return fmt::format("{:.{}f} {}B", scaled, *unit == '\0' || scaled >= 9.95 ? 0 : 1, unit);
}

std::string short_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "?";
  const int64_t s = std::llround(seconds);
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

std::string progress_line(const StepMetrics& m) {
  const std::string total = fmt::to_string(m.total_steps);
  const double percent =
      m.total_steps > 0 ? 100.0 * static_cast<double>(m.step) / static_cast<double>(m.total_steps)
                        : 0.0;
  std::string line =
      fmt::format("step {:>{}}/{} {:>5.1f}% | loss {:>7.4f} | gnorm {} | lr {:>7.1e} | {:>5} tok/s",
                  m.step, std::max<size_t>(total.size(), 5), total, percent, m.loss,
                  short_norm(m.grad_norm), m.learning_rate, short_count(m.tokens_per_s));
  if (m.flops_per_s) line += fmt::format(" | {:>5.1f} TFLOP/s", *m.flops_per_s / 1e12);
  if (m.mfu) line += fmt::format(" | mfu {:>4.1f}%", 100 * *m.mfu);
  line += fmt::format(" | mem {:>6} | comm {:>4.1f}% | data {:>4.1f}% | eta {:>6}",
                      short_bytes(m.peak_memory_bytes), 100 * m.comm_wait_share,
                      100 * m.data_wait_share, short_duration(m.eta_s));
  if (m.validation_loss) line += fmt::format(" | val {:>7.4f}", *m.validation_loss);
  return line;
}

}  // namespace longship
