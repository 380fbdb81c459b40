// The configurations of examples/hybrids: their published sizes, and training at tiny ones.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/program/longship_program.h"
#include "tests/support/run_program.h"
#include "tests/support/temporary_folder.h"

namespace longship::testing {
namespace {

const std::string kFolder = LONGSHIP_EXAMPLES "/hybrids/";

// Parameters of one layer's mixer, counted with the shapes of the published modules.
struct PublishedMixer {
  const char* name;
  int64_t num_layers;
  int64_t num_parameters;
};

struct PublishedModel {
  const char* name;
  const char* first_layers;
  std::vector<PublishedMixer> mixers;
};

std::vector<PublishedModel> published_models() {
  // in_proj_qkvz, in_proj_ba, conv1d, A_log and dt_bias, norm, out_proj.
  const int64_t qwen_delta =
      2048 * (2 * 2048 + 2 * 4096) + 2048 * 64 + (2 * 2048 + 4096) * 4 + 2 * 32 + 128 + 4096 * 2048;
  // q_proj with the gate, k_proj and v_proj, o_proj, q_norm and k_norm.
  const int64_t qwen_full = 2048 * 8192 + 2 * 2048 * 512 + 4096 * 2048 + 2 * 256;
  // q_proj and k_proj, v_proj and g_proj, a_proj and b_proj, conv1d, A_log and dt_bias, o_norm,
  // o_proj.
  const int64_t olmo_delta = 2 * 3840 * 2880 + 2 * 3840 * 5760 + 2 * 3840 * 30 +
                             (2 * 2880 + 5760) * 4 + 2 * 30 + 192 + 5760 * 3840;
  const int64_t olmo_full = 4 * 3840 * 3840 + 2 * 3840;
  // q, k and v with convolutions, f_a and f_b, g_a and g_b, b_proj, A_log, dt_bias, o_norm, o_proj.
  const int64_t kimi_delta = 3 * (2304 * 4096 + 4096 * 4) + 2 * (2304 * 128 + 128 * 4096) +
                             2304 * 32 + 32 + 4096 + 128 + 4096 * 2304;
  // q_proj, kv_a_proj_with_mqa, kv_a_layernorm, kv_b_proj, o_proj.
  const int64_t kimi_latent =
      2304 * 32 * 192 + 2304 * (512 + 64) + 512 + 512 * 32 * (128 + 128) + 4096 * 2304;
  // qkv_proj, output_gate, out_proj, norm.
  const int64_t minimax_lightning = 6144 * 3 * 8192 + 6144 * 8192 + 8192 * 6144 + 8192;
  const int64_t minimax_full = 2 * 6144 * 8192 + 2 * 6144 * 1024;
  // q, k, v, o and z_proj, o_norm, q_norm and k_norm.
  const int64_t sala_lightning = 5 * 4096 * 4096 + 4096 + 2 * 128;
  // q_proj, o_gate and o_proj, k_proj and v_proj.
  const int64_t sala_full = 3 * 4096 * 4096 + 2 * 4096 * 256;
  // in_proj to z, x, B, C and dt, conv1d with bias, A_log, dt_bias and D, out_proj.
  const int64_t falcon_mamba =
      1024 * (2 * 1536 + 2 * 128 + 24) + (1536 + 2 * 128) * 5 + 3 * 24 + 1536 * 1024;
  const int64_t falcon_full = 2 * 1024 * 512 + 2 * 1024 * 128;
  // q, k, v and o_proj with biases, sinks.
  const int64_t gpt_oss = 2880 * 4096 + 4096 + 2 * (2880 * 512 + 512) + 4096 * 2880 + 2880 + 64;
  return {
      {"qwen3_next",
       "0-2 gated_delta, 3 full, 4-6 gated_delta, 7 full",
       {{"gated_delta", 36, qwen_delta}, {"full", 12, qwen_full}}},
      {"olmo_hybrid",
       "0-2 gated_delta, 3 full, 4-6 gated_delta, 7 full",
       {{"gated_delta", 24, olmo_delta}, {"full", 8, olmo_full}}},
      {"kimi_linear",
       "0-2 kda, 3 latent, 4-6 kda, 7 latent",
       {{"kda", 20, kimi_delta}, {"latent", 7, kimi_latent}}},
      {"minimax_01",
       "0-6 lightning, 7 full, 8-14 lightning, 15 full",
       {{"lightning", 70, minimax_lightning}, {"full", 10, minimax_full}}},
      {"minicpm_sala",
       "0 full, 1-8 lightning, 9 full, 10-15 lightning, 16-17 full, 18-21 lightning, 22 full, "
       "23-28 lightning, 29-31 full",
       {{"lightning", 24, sala_lightning}, {"full", 8, sala_full}}},
      {"falcon_h1",
       "0-35 mamba2 + full",
       {{"mamba2", 36, falcon_mamba}, {"full", 36, falcon_full}}},
      {"gpt_oss",
       "0 windowed, 1 full, 2 windowed",
       {{"windowed", 12, gpt_oss}, {"full", 12, gpt_oss}}},
  };
}

TEST(PublishedHybrids, HaveThePublishedLayersAndMixers) {
  for (const PublishedModel& model : published_models())
    for (const int ranks : {1, 8}) {
      const ProgramResult result = run_longship(
          0, fmt::format("inspect {}{}.textproto --ranks {} --set output_dir=x --set data.tokens=y",
                         kFolder, model.name, ranks));
      ASSERT_EQ(result.exit_code, 0) << result.output;
      std::vector<std::string> expected = {fmt::format("# layers: {}", model.first_layers)};
      for (const PublishedMixer& mixer : model.mixers)
        expected.push_back(fmt::format("{:<16} {:>16} = {} x {}\n", mixer.name,
                                       mixer.num_layers * mixer.num_parameters, mixer.num_layers,
                                       mixer.num_parameters));
      // The one model here that is dense: all of it is as published.
      if (model.name == std::string("falcon_h1")) expected.push_back("521411104\n");
      for (const std::string& text : expected)
        EXPECT_NE(result.output.find(text), std::string::npos) << model.name << ": " << text << "\n"
                                                               << result.output;
    }
}

TEST(PublishedHybrids, AllLearnAtTinySizeOnTwoRanks) {
  const TemporaryFolder out;
  const std::string build = std::filesystem::path(LONGSHIP_PROGRAM).parent_path().string();
  const ProgramResult result = run_program(
      0, fmt::format("env LONGSHIP_BUILD_DIR={} bash {}tiny.sh --ranks 2 --steps 8 --out {}", build,
                     kFolder, out.path("")));
  ASSERT_EQ(result.exit_code, 0) << result.output;
  int64_t num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder))
    num_files += entry.path().extension() == ".textproto";
  EXPECT_EQ(num_files, static_cast<int64_t>(published_models().size()));
  for (const PublishedModel& model : published_models()) {
    std::ifstream file(out.path(model.name) + "/metrics.jsonl");
    std::vector<double> losses;
    for (std::string line; std::getline(file, line);)
      losses.push_back(nlohmann::json::parse(line).at("loss"));
    ASSERT_EQ(losses.size(), 8u) << model.name << "\n" << result.output;
    EXPECT_NEAR(losses.front(), std::log(256), 0.5) << model.name;
    EXPECT_LT(losses.back(), losses.front() - 0.5) << model.name;
  }
}

}  // namespace
}  // namespace longship::testing
