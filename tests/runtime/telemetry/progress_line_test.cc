#include "runtime/telemetry/progress_line.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace longship {
namespace {

StepMetrics example() {
  return {.step = 120,
          .total_steps = 500,
          .loss = 2.11344,
          .grad_norm = 0.814,
          .learning_rate = 2.9e-4,
          .tokens_per_s = 63900,
          .peak_memory_bytes = 214'000'000,
          .comm_wait_share = 0.061,
          .data_wait_share = 0.003,
          .eta_s = 192};
}

TEST(ProgressLine, ShowsEveryColumn) {
  EXPECT_EQ(progress_line(example()),
            "step   120/500  24.0% | loss  2.1134 | gnorm    0.81 | lr 2.9e-04 | 63.9k tok/s | "
            "mem 214 MB | comm  6.1% | data  0.3% | eta  3m12s");
}

TEST(ProgressLine, AppendsTheValidationLoss) {
  StepMetrics metrics = example();
  metrics.validation_loss = 2.2;
  EXPECT_EQ(progress_line(metrics), progress_line(example()) + " | val  2.2000");
}

TEST(ProgressLine, ShowsRatesOfArithmeticWhereTheyAreKnown) {
  StepMetrics metrics = example();
  metrics.flops_per_s = 412.34e12;
  metrics.mfu = 0.4167;
  EXPECT_EQ(progress_line(metrics),
            "step   120/500  24.0% | loss  2.1134 | gnorm    0.81 | lr 2.9e-04 | 63.9k tok/s | "
            "412.3 TFLOP/s | mfu 41.7% | mem 214 MB | comm  6.1% | data  0.3% | eta  3m12s");
}

TEST(ProgressLine, KeepsItsWidthOverTheWholeRun) {
  const size_t width = progress_line(example()).size();
  StepMetrics metrics = example();
  for (const auto& [loss, norm, speed, eta] :
       {std::array{10.5, 1e-9, 3.0, 3.0}, std::array{0.0001, 123456.0, 999.6, 31000.0},
        std::array{99.99, 9999.0, 1.2e6, 180000.0}, std::array{1.0, 0.0, 99.9e3, 0.0}}) {
    metrics.step = metrics.step == 120 ? 1 : 500;
    metrics.loss = loss;
    metrics.grad_norm = norm;
    metrics.tokens_per_s = speed;
    metrics.eta_s = eta;
    metrics.peak_memory_bytes = static_cast<int64_t>(speed) * 1000;
    EXPECT_EQ(progress_line(metrics).size(), width) << progress_line(metrics);
  }
}

TEST(ProgressLine, SaysNanWhenTheLossIsNan) {
  StepMetrics metrics = example();
  metrics.loss = std::nan("");
  EXPECT_NE(progress_line(metrics).find("loss     nan |"), std::string::npos)
      << progress_line(metrics);
}

TEST(ShortCount, NeverExceedsFiveCharacters) {
  EXPECT_EQ(short_count(0), "0");
  EXPECT_EQ(short_count(3.25), "3.25");
  EXPECT_EQ(short_count(512), "512");
  EXPECT_EQ(short_count(999.4), "999");
  EXPECT_EQ(short_count(999.6), "1.00k");
  EXPECT_EQ(short_count(63900), "63.9k");
  EXPECT_EQ(short_count(99960), "100k");
  EXPECT_EQ(short_count(1.05e6), "1.05M");
  EXPECT_EQ(short_count(7.5e9), "7.50G");
  for (double value = 0.001; value < 9e14; value *= 1.37)
    EXPECT_LE(short_count(value).size(), 5u) << value;
}

TEST(ShortBytes, UsesPowersOfThousand) {
  EXPECT_EQ(short_bytes(0), "0 B");
  EXPECT_EQ(short_bytes(999), "999 B");
  EXPECT_EQ(short_bytes(1500), "1.5 kB");
  EXPECT_EQ(short_bytes(214'000'000), "214 MB");
  EXPECT_EQ(short_bytes(1'500'000'000), "1.5 GB");
}

TEST(ShortDuration, ShowsTheTwoLargestUnits) {
  EXPECT_EQ(short_duration(0), "0s");
  EXPECT_EQ(short_duration(59.6), "1m00s");
  EXPECT_EQ(short_duration(192), "3m12s");
  EXPECT_EQ(short_duration(31200), "8h40m");
  EXPECT_EQ(short_duration(2 * 86400 + 3 * 3600 + 59), "2d03h");
  EXPECT_EQ(short_duration(std::numeric_limits<double>::infinity()), "?");
  EXPECT_EQ(short_duration(std::nan("")), "?");
  EXPECT_EQ(short_duration(-1), "?");
}

}  // namespace
}  // namespace longship
