#include "tests/program/longship_program.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_store.h"
#include "runtime/io/checksum.h"
#include "runtime/random.h"

namespace longship::testing {
namespace {

// Sentences drawn from a small grammar: enough structure for the loss to fall in a few steps.
std::string made_up_text(uint64_t stream, int num_sentences) {
  const std::array<const char*, 6> subjects = {"The ship",    "A sailor", "The wind",
                                               "Her captain", "The crew", "An old map"};
  const std::array<const char*, 6> verbs = {"follows", "crosses", "remembers",
                                            "leaves",  "finds",   "fears"};
  const std::array<const char*, 6> objects = {"the northern sea", "a quiet harbour",
                                              "the long coast",   "every island",
                                              "the morning star", "its own shadow"};
  std::string text;
  uint64_t index = 0;
  auto pick = [&](const auto& words) {
    text += words[uniform_index(5, stream, index++, words.size())];
  };
  for (int i = 0; i < num_sentences; ++i) {
    pick(subjects);
    text += ' ';
    pick(verbs);
    text += ' ';
    pick(objects);
    text += ".\n";
  }
  return text;
}

uint64_t checksum_of(const Checkpoint& checkpoint, const CheckpointTensor& tensor) {
  const Tensor whole = Tensor::empty(std::make_shared<Memory>(), tensor.shape, tensor.dtype);
  checkpoint.read(tensor.name, whole);
  return checksum({whole.raw(), static_cast<size_t>(whole.num_bytes())});
}

constexpr const char* kAllButTheModel = R"(
optim { learning_rate: 3e-3 warmup_steps: 2 }
train { device: CPU steps: 20 context: 96 global_batch: 2 seed: 11 }
parallel { timeout_s: 60 }
)";

}  // namespace

ProgramResult run_longship(int ranks, const std::string& arguments) {
  // Where tests run on another machine than they were built on, the program lies elsewhere.
  const char* elsewhere = std::getenv("LONGSHIP_PROGRAM");
  const std::string program = elsewhere != nullptr ? elsewhere : LONGSHIP_PROGRAM;
  return run_program(ranks, program + " " + arguments, 300);
}

TinyRun::TinyRun(const std::string& model) {
  for (uint64_t i = 0; i < 12; ++i)
    files_.write("text/" + std::to_string(i) + ".txt",
                 made_up_text(i, static_cast<int>(4 + 3 * (i % 5))));
  files_.write("run.textproto", "model { " + model + " }" + kAllButTheModel);
  const ProgramResult prepared =
      run_longship(0, "prepare --input " + files_.path("text") + " --output " + tokens());
  EXPECT_EQ(prepared.exit_code, 0) << prepared.output;
}

ProgramResult TinyRun::train(int ranks, const std::string& name,
                             const std::vector<std::string>& overrides) {
  std::string arguments =
      "train " + config() + " --set output_dir=" + folder(name) + " --set data.tokens=" + tokens();
  for (const std::string& assignment : overrides) arguments += " --set " + assignment;
  return run_longship(ranks, arguments);
}

std::vector<std::string> TinyRun::metric(const std::string& name, const std::string& key) const {
  std::vector<std::string> column;
  std::ifstream file(folder(name) + "/metrics.jsonl");
  for (std::string line; std::getline(file, line);)
    column.push_back(nlohmann::json::parse(line).at(key).dump());
  return column;
}

std::vector<double> TinyRun::losses(const std::string& name) const {
  std::vector<double> values;
  for (const std::string& text : metric(name, "loss")) values.push_back(std::stod(text));
  return values;
}

std::string TinyRun::weights_fingerprint(const std::string& name) const {
  const auto checkpoints = list_checkpoints(folder(name) + "/checkpoints");
  EXPECT_FALSE(checkpoints.empty());
  if (checkpoints.empty()) return "";
  const Checkpoint checkpoint = Checkpoint::open(checkpoints[0].directory);
  checkpoint.verify();
  std::string text = "step " + std::to_string(checkpoint.header().step);
  for (const CheckpointTensor& tensor : checkpoint.tensors())
    text += "\n" + tensor.name + " " + std::to_string(checksum_of(checkpoint, tensor));
  return text;
}

}  // namespace longship::testing
