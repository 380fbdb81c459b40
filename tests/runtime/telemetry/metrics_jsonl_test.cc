#include "runtime/telemetry/metrics_jsonl.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

void append_steps(const std::string& path, int64_t resumed_step, int64_t last_step) {
  MetricsJsonl metrics(path, resumed_step);
  for (int64_t step = resumed_step + 1; step <= last_step; ++step)
    metrics.append({.step = step, .loss = 1.0 / static_cast<double>(step)});
}

std::vector<nlohmann::json> lines_of(const std::string& text) {
  std::vector<nlohmann::json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

TEST(MetricsJsonl, WritesOneObjectPerStepAtOnce) {
  const TemporaryFolder folder;
  MetricsJsonl metrics(folder.path("m.jsonl"), 0);
  metrics.append({.step = 1, .total_steps = 9, .loss = 2.5, .tokens = int64_t{1} << 40});
  // Read while the writer is still open: nothing waits in a buffer.
  const auto lines = lines_of(folder.read("m.jsonl"));
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["step"], 1);
  EXPECT_EQ(lines[0]["total_steps"], 9);
  EXPECT_EQ(lines[0]["loss"], 2.5);
  EXPECT_EQ(lines[0]["tokens"], int64_t{1} << 40);
  EXPECT_FALSE(lines[0].contains("validation_loss"));
}

TEST(MetricsJsonl, WritesRatesOfArithmeticOnlyWhereTheyAreKnown) {
  const TemporaryFolder folder;
  MetricsJsonl metrics(folder.path("m.jsonl"), 0);
  metrics.append({.step = 1, .system_allocations = 7});
  metrics.append({.step = 2, .flops_per_s = 4e14, .mfu = 0.5});
  const auto lines = lines_of(folder.read("m.jsonl"));
  EXPECT_EQ(lines[0]["system_allocations"], 7);
  EXPECT_FALSE(lines[0].contains("flops_per_s") || lines[0].contains("mfu"));
  EXPECT_EQ(lines[1]["flops_per_s"], 4e14);
  EXPECT_EQ(lines[1]["mfu"], 0.5);
}

TEST(MetricsJsonl, KeepsEveryBitOfTheLossInHexadecimal) {
  const TemporaryFolder folder;
  const double loss = std::nextafter(2.1, 3.0), norm = std::nextafter(0.7, 0.0);
  MetricsJsonl(folder.path("m.jsonl"), 0).append({.step = 1, .loss = loss, .grad_norm = norm});
  const auto line = lines_of(folder.read("m.jsonl"))[0];
  EXPECT_EQ(std::strtod(line["loss_hex"].get<std::string>().c_str(), nullptr), loss);
  EXPECT_EQ(std::strtod(line["grad_norm_hex"].get<std::string>().c_str(), nullptr), norm);
}

TEST(MetricsJsonl, WritesNonFiniteValuesAsNull) {
  const TemporaryFolder folder;
  MetricsJsonl(folder.path("m.jsonl"), 0).append({.step = 1, .loss = std::nan("")});
  EXPECT_TRUE(lines_of(folder.read("m.jsonl"))[0]["loss"].is_null());
}

TEST(MetricsJsonl, ResumesWithoutRepeatingAStep) {
  const TemporaryFolder folder;
  const std::string path = folder.path("m.jsonl");
  append_steps(path, 0, 10);
  const std::string whole = folder.read("m.jsonl");
  append_steps(path, 6, 10);
  EXPECT_EQ(folder.read("m.jsonl"), whole);
  append_steps(path, 0, 0);
  EXPECT_EQ(folder.read("m.jsonl"), "");
}

TEST(MetricsJsonl, DropsALastLineThatACrashCutShort) {
  const TemporaryFolder folder;
  const std::string path = folder.path("m.jsonl");
  append_steps(path, 0, 3);
  const std::string whole = folder.read("m.jsonl");
  for (size_t cut = 1; cut < 30; cut += 7) {
    folder.write("m.jsonl", whole.substr(0, whole.size() - cut));
    append_steps(path, 2, 3);
    EXPECT_EQ(folder.read("m.jsonl"), whole) << cut << " bytes lost";
  }
}

TEST(MetricsJsonl, RefusesAFileThatIsNotItsOwn) {
  const TemporaryFolder folder;
  for (const char* bad :
       {"hello\n", "[1]\n", "{\"loss\":1}\n", "{\"step\":-1}\n", "\n", "\xff\n"}) {
    const std::string path = folder.write("m.jsonl", std::string("{\"step\":1}\n") + bad);
    expect_error(ErrorCode::kCorrupt, {path, "line 2"}, [&] { MetricsJsonl(path, 5); });
  }
  expect_error(ErrorCode::kStorage, {"nowhere"},
               [&] { MetricsJsonl(folder.path("nowhere/m.jsonl"), 0); });
}

}  // namespace
}  // namespace longship
