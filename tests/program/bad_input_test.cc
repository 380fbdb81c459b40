// Bad input of every kind: a clear error of one screen, the exit code of its kind, nothing left
// behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "tests/program/longship_program.h"

namespace longship::testing {
namespace {

namespace fs = std::filesystem;

// Exit code, words the message must hold, and at most a screen of text.
void expect_failure(const ProgramResult& result, int exit_code,
                    const std::vector<std::string>& words) {
  EXPECT_EQ(result.exit_code, exit_code) << result.output;
  for (const std::string& word : words)
    EXPECT_NE(result.output.find(word), std::string::npos)
        << "the message does not name `" << word << "`:\n"
        << result.output;
  EXPECT_LE(std::count(result.output.begin(), result.output.end(), '\n'), 40) << result.output;
  size_t count = 0;
  for (size_t at = 0; (at = result.output.find("longship: ", at)) != std::string::npos; ++at)
    ++count;
  EXPECT_EQ(count, 1u) << "the error must be printed once:\n" << result.output;
}

TEST(BadInput, BrokenRulesOfTheConfigurationAreReportedTogether) {
  TinyRun run;
  const ProgramResult result =
      run.train(2, "out",
                {"model.attention.num_kv_heads=3", "optim.learning_rate=-1", "train.global_batch=0",
                 "model.norm_eps=nan"});
  expect_failure(result, 2, {"num_kv_heads", "learning_rate", "global_batch", "norm_eps"});
  EXPECT_FALSE(fs::exists(run.folder("out")));
}

TEST(BadInput, ConfigurationFilesAndOverrides) {
  TinyRun run;
  expect_failure(run_longship(2, "train /nowhere.textproto"), 2, {"/nowhere.textproto"});
  expect_failure(run_longship(2, "train " + run.folder("text")), 2, {"text"});
  const std::string unknown = run.files().write("unknown.textproto", "model {\n  layerz: 3\n}\n");
  expect_failure(run_longship(1, "train " + unknown), 2, {"unknown.textproto:2", "layerz"});
  expect_failure(run.train(1, "out", {"train.stepz=3"}), 2, {"stepz", "steps, context"});
  expect_failure(run.train(1, "out", {"train.steps=soon"}), 2, {"train.steps", "a whole number"});
  EXPECT_FALSE(fs::exists(run.folder("out")));
}

TEST(BadInput, RanksThatDoNotFit) {
  TinyRun run;
  expect_failure(run.train(3, "out", {"parallel.sp=2"}), 2, {"parallel.sp = 2", "3 ranks"});
  expect_failure(run.train(4, "out", {"train.context=3"}), 2, {"train.context = 3", "4 ranks"});
  expect_failure(run.train(2, "out", {"parallel.strategy=local"}), 2, {"local"});
  expect_failure(run.train(2, "out", {"parallel.strategy=rings"}), 2, {"rings", "ulysses"});
  EXPECT_FALSE(fs::exists(run.folder("out")));
}

TEST(BadInput, TokenFiles) {
  TinyRun run;
  expect_failure(run.train(2, "out", {"data.tokens=/nowhere.tokens"}), 7, {"/nowhere.tokens"});
  expect_failure(run.train(1, "out", {"parallel.strategy=local", "train.context=1000000"}), 2,
                 {"1000000"});
  expect_failure(run.train(1, "out", {"parallel.strategy=local", "model.vocab_size=100"}), 2,
                 {"model.vocab_size", "258"});
  const std::string content = run.files().read("text.tokens");
  const std::string cut = run.files().write("cut.tokens", content.substr(0, content.size() - 1));
  expect_failure(run.train(2, "out", {"data.tokens=" + cut}), 3, {"cut.tokens"});
  std::string altered = content;
  altered[4096 + 100] = static_cast<char>(altered[4096 + 100] ^ 1);
  const std::string flipped = run.files().write("flipped.tokens", altered);
  expect_failure(run.train(2, "out", {"data.tokens=" + flipped}), 3, {"flipped.tokens"});
  const std::string empty = run.files().write("empty.tokens", "");
  expect_failure(run.train(1, "out", {"data.tokens=" + empty, "parallel.strategy=local"}), 3,
                 {"empty.tokens"});
}

TEST(BadInput, TextForPrepare) {
  TemporaryFolder files;
  const std::string out = files.path("out.tokens");
  auto prepare = [&](const std::string& input) {
    return run_longship(0, "prepare --input " + input + " --output " + out);
  };
  expect_failure(prepare(files.path("missing.txt")), 7, {"missing.txt"});
  expect_failure(prepare(files.write("empty.txt", "")), 3, {"no document"});
  expect_failure(prepare(files.write("bad.txt", "fine \xff\xfe text")), 3, {"bad.txt", "5"});
  expect_failure(prepare(files.write("bad.jsonl", "{\"text\": \"a\"}\n{\"text\": 3}\n")), 3,
                 {"bad.jsonl", "2"});
  expect_failure(run_longship(0, "prepare --input " + files.write("a.txt", "abc") + " --output " +
                                     out + " --tokenizer " + files.path("none.model")),
                 7, {"none.model"});
  for (const auto& entry : fs::directory_iterator(files.path("")))
    EXPECT_EQ(entry.path().string().find("out.tokens"), std::string::npos)
        << entry.path() << " was left behind";
}

TEST(BadInput, NonFiniteStopsBeforeWeightsChangeNamingTheTensor) {
  TinyRun run;
  const ProgramResult result =
      run.train(2, "out",
                {"optim.learning_rate=1e30", "optim.clip_norm=0", "optim.warmup_steps=0",
                 "optim.schedule=CONSTANT", "checkpoint.every_steps=1"});
  EXPECT_EQ(result.exit_code, 6) << result.output;
  // The place in the model, the op and the element.
  for (const char* word : {"of op `", "nan at element", "of shape"})
    EXPECT_NE(result.output.find(word), std::string::npos) << result.output;
  // What is on disk is the state after the last finite step.
  const size_t num_good_steps = run.metric("out", "loss").size();
  EXPECT_LT(num_good_steps, 20u);
  EXPECT_EQ(run.weights_fingerprint("out").find("step " + std::to_string(num_good_steps)), 0u);
}

TEST(BadInput, SecondJobInTheSameFolderIsRefused) {
  TinyRun run;
  const std::string train = "train " + run.config() + " --set output_dir=" + run.folder("out") +
                            " --set data.tokens=" + run.tokens() +
                            " --set parallel.strategy=local --set train.steps=100000";
  const ProgramResult both =
      run_longship(0, train +
                          " >/dev/null 2>&1 & for i in $(seq 300); do sleep 0.1; "
                          "[ -s " +
                          run.folder("out") + "/metrics.jsonl ] && break; done; " +
                          std::string(LONGSHIP_PROGRAM) + " " + train +
                          " 2>&1; code=$?; pkill -KILL -f '^" LONGSHIP_PROGRAM " train .*" +
                          run.folder("out") + "'; exit $code");
  EXPECT_EQ(both.exit_code, 2) << both.output;
  EXPECT_NE(both.output.find("another job"), std::string::npos) << both.output;
}

TEST(BadInput, CheckpointsForEvalAndGenerate) {
  TinyRun run;
  expect_failure(run_longship(1, "eval /nowhere --tokens " + run.tokens()), 7, {"/nowhere"});
  ASSERT_EQ(run.train(1, "out", {"parallel.strategy=local", "train.steps=2"}).exit_code, 0);
  expect_failure(run_longship(1, "eval " + run.folder("out") + " --tokens " + run.tokens() +
                                     " --set model.hidden_size=64"),
                 2, {"model.embed_tokens.weight"});
  expect_failure(run_longship(1, "generate " + run.folder("out") + " --prompt a --top-p 2"), 2,
                 {"top_p"});
  const ProgramResult negative =
      run_longship(0, "generate " + run.folder("out") + " --max-tokens -1");
  EXPECT_EQ(negative.exit_code, 2) << negative.output;
  EXPECT_NE(negative.output.find("--max-tokens"), std::string::npos) << negative.output;
  expect_failure(run_longship(0, "inspect " + run.folder("nothing")), 7, {"nothing"});
}

TEST(BadInput, OverridesMayStandBeforeTheConfiguration) {
  TinyRun run;
  const ProgramResult result = run_longship(
      1, "train --set data.tokens=" + run.tokens() + " --set output_dir=" + run.folder("out") +
             " --set parallel.strategy=local --set train.steps=2 " + run.config());
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

TEST(BadInput, CommandLine) {
  EXPECT_EQ(run_longship(0, "").exit_code, 2);
  EXPECT_EQ(run_longship(0, "trian x").exit_code, 2);
  EXPECT_EQ(run_longship(0, "train").exit_code, 2);
  EXPECT_EQ(run_longship(0, "--help").exit_code, 0);
}

}  // namespace
}  // namespace longship::testing
