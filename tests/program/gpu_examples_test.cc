// The configurations of examples/gpu.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/program/longship_program.h"

namespace longship::testing {
namespace {

TEST(GpuExamples, HaveTheParametersOfTheModelsWhoseShapeTheyTake) {
  const std::string folder = std::string(LONGSHIP_EXAMPLES) + "/gpu";
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"llama_135m", "134515008"}, {"llama_1b", "1235814400"}, {"llama_8b", "8030261248"}};
  for (const auto& [name, num_parameters] : expected)
    for (const int ranks : {1, 2}) {
      const ProgramResult result =
          run_longship(0, "inspect " + folder + "/" + name + ".textproto --ranks " +
                              std::to_string(ranks) + " --set output_dir=x --set data.tokens=y");
      ASSERT_EQ(result.exit_code, 0) << result.output;
      EXPECT_NE(result.output.find(num_parameters + "\n"), std::string::npos) << result.output;
    }
  int64_t num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    num_files += entry.path().extension() == ".textproto";
  EXPECT_EQ(num_files, static_cast<int64_t>(expected.size()));
}

}  // namespace
}  // namespace longship::testing
