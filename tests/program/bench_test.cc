// longship bench, as a user meets it, at sizes that say nothing about speed.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/program/longship_program.h"
#include "tests/support/temporary_folder.h"

namespace longship::testing {
namespace {

using nlohmann::json;

std::vector<json> read_lines(const std::string& path) {
  std::ifstream file(path);
  std::vector<json> objects;
  for (std::string line; std::getline(file, line);) objects.push_back(json::parse(line));
  return objects;
}

TEST(Bench, WritesAnObjectForEveryCaseThatItPrints) {
  TemporaryFolder files;
  const std::string out = files.path("bench.jsonl");
  const ProgramResult result =
      run_longship(2,
                   "bench attention collectives --rounds 1 --lengths 96,1K --heads 4/2x16 "
                   "--strategies ring,gather_kv --documents 40 --bytes 64,4096 --json " +
                       out);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const std::vector<json> cases = read_lines(out);
  ASSERT_EQ(cases.size(), 2 * 2 + 5 * 2);
  for (const json& object : cases) {
    EXPECT_GT(object["ms"], 0);
    EXPECT_GT(object["rate"], 0);
    EXPECT_NE(object["command"].get<std::string>().find("bench attention"), std::string::npos);
    EXPECT_NE(result.output.find(object["case"].get<std::string>()), std::string::npos);
  }
  EXPECT_EQ(cases[0]["case"], "attention 2cpu documents~40 4/2x16 S=96 ring");
  EXPECT_EQ(cases[1]["case"], "attention 2cpu documents~40 4/2x16 S=1K ring");
  EXPECT_EQ(cases.back()["case"], "all_reduce 2cpu 4KB");
}

TEST(Bench, MeasuresStepsOfAConfigurationWithoutItsTokens) {
  TinyRun run;
  const ProgramResult result = run_longship(
      2, "bench step --rounds 1 --config " + run.config() + " --set model.vocab_size=300");
  ASSERT_EQ(result.exit_code, 0) << result.output;
  EXPECT_NE(result.output.find("tokens/s"), std::string::npos);
}

TEST(Bench, RefusesWhatItCannotMeasure) {
  const auto expect_refusal = [](const std::string& arguments, const std::string& word) {
    const ProgramResult result = run_longship(1, "bench " + arguments);
    EXPECT_EQ(result.exit_code, 2) << arguments << "\n" << result.output;
    EXPECT_NE(result.output.find(word), std::string::npos) << result.output;
  };
  expect_refusal("attention --heads 4x16", "32/8x128");
  expect_refusal("attention --heads 4/3x16", "multiple");
  expect_refusal("attention --strategies warp", "ring");
  expect_refusal("attention --strategies zeco", "softmax");
  expect_refusal("collectives", "mpirun");
  expect_refusal("step", "--config");
  expect_refusal("everything", "attention");
}

}  // namespace
}  // namespace longship::testing
