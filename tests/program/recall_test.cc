// Recall tasks, as a user meets them.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/token_file.h"
#include "tests/program/longship_program.h"

namespace longship::testing {
namespace {

using nlohmann::json;

json read_json(const std::string& path) {
  std::ifstream file(path);
  return json::parse(file);
}

TEST(Recall, ScoresAreTheSameOnAnyNumberOfRanks) {
  TinyRun run;
  const ProgramResult trained = run.train(2, "run", {"train.steps=3"});
  ASSERT_EQ(trained.exit_code, 0) << trained.output;
  std::vector<json> results;
  for (int ranks : {1, 2, 3}) {
    const std::string out = run.files().path("recall" + std::to_string(ranks) + ".json");
    const ProgramResult result = run_longship(
        ranks, "eval --recall " + run.folder("run") +
                   " --lengths 128,200 --depths 0,60,100 --pairs 4,16 --samples 3 --json " + out);
    ASSERT_EQ(result.exit_code, 0) << result.output;
    EXPECT_NE(result.output.find("60%"), std::string::npos) << result.output;
    EXPECT_NE(result.output.find("guessing"), std::string::npos) << result.output;
    results.push_back(read_json(out));
  }
  for (const json& result : results) {
    ASSERT_EQ(result["passkey"].size(), 6u);
    ASSERT_EQ(result["associative"].size(), 4u);
    for (const char* task : {"passkey", "associative"})
      for (size_t i = 0; i < result[task].size(); ++i) {
        const json &cell = result[task][i], &expected = results[0][task][i];
        EXPECT_EQ(cell["length"], expected["length"]);
        EXPECT_EQ(cell["accuracy"], expected["accuracy"]);
        EXPECT_EQ(cell["answers"], expected["answers"]);
        EXPECT_NEAR(cell["log_probability"], expected["log_probability"], 1e-5);
        EXPECT_LT(cell["log_probability"], -1.0);  // three steps teach nothing yet
      }
    EXPECT_EQ(result["passkey"][4]["depth"], 60);
    EXPECT_EQ(result["passkey"][4]["answers"], 3);
    const json& many = result["associative"][3];
    EXPECT_EQ(many["pairs"], 16);
    EXPECT_EQ(many["answers"], 48);
    int64_t answers = 0;
    for (const json& cell : many["by_distance"]) answers += cell["answers"].get<int64_t>();
    EXPECT_EQ(answers, 48);
    EXPECT_NEAR(many["chance"], 1.0 / 16, 1e-12);
  }
}

TEST(Recall, PairsThatALengthHasNoRoomForAreLeftOut) {
  TinyRun run;
  ASSERT_EQ(run.train(1, "run", {"train.steps=2"}).exit_code, 0);
  const std::string out = run.files().path("recall.json");
  const ProgramResult result = run_longship(
      0, "eval --recall " + run.folder("run") +
             " --tasks associative --lengths 20,40 --pairs 4,8 --samples 2 --json " + out);
  ASSERT_EQ(result.exit_code, 0) << result.output;
  const json report = read_json(out);
  EXPECT_FALSE(report.contains("passkey"));
  std::vector<std::pair<int64_t, int64_t>> rows;
  for (const json& row : report["associative"]) rows.emplace_back(row["length"], row["pairs"]);
  EXPECT_EQ(rows, (std::vector<std::pair<int64_t, int64_t>>{{20, 4}, {40, 4}, {40, 8}}));
}

TEST(Recall, PreparedDocumentsCountTheirAnswersOnly) {
  const TemporaryFolder files;
  auto prepare = [&](const std::string& name, const std::string& options) {
    return run_longship(0, "prepare --output " + files.path(name) +
                               " --synthetic passkey,associative --documents 40 --lengths 128,160 "
                               "--pairs 2,5 " +
                               options);
  };
  const ProgramResult prepared = prepare("a.tokens", "");
  ASSERT_EQ(prepared.exit_code, 0) << prepared.output;
  EXPECT_NE(prepared.output.find("40 documents"), std::string::npos) << prepared.output;
  const auto file = TokenFile::open(files.path("a.tokens"), TokenFile::Verify::kAtOpen);
  ASSERT_EQ(file->num_documents(), 40);
  ASSERT_TRUE(file->has_loss_mask());
  for (int64_t i = 0; i < 40; ++i) {
    const DocumentView document = file->document(i);
    const int64_t length = file->document_lengths()[static_cast<size_t>(i)];
    EXPECT_TRUE(length == 128 || length == 160) << length;
    const int64_t answers = document.loss_mask.count(0, length);
    if (i % 2 == 0) {
      EXPECT_EQ(answers, 6);  // " 12345"
      EXPECT_TRUE(document.loss_mask[length - 1]);
    } else {
      EXPECT_TRUE(answers == 2 || answers == 5) << answers;
    }
  }
  ASSERT_EQ(prepare("b.tokens", "").exit_code, 0);
  ASSERT_EQ(prepare("c.tokens", "--seed 2").exit_code, 0);
  EXPECT_EQ(TokenFile::open(files.path("b.tokens"))->content_hash(), file->content_hash());
  EXPECT_NE(TokenFile::open(files.path("c.tokens"))->content_hash(), file->content_hash());
  EXPECT_EQ(prepare("a.tokens", "").exit_code, 2);  // it exists
  EXPECT_EQ(prepare("a.tokens", "--overwrite").exit_code, 0);
}

TEST(Recall, RandomDocumentsCountAllTheirTokens) {
  const TemporaryFolder files;
  const ProgramResult prepared =
      run_longship(0, "prepare --output " + files.path("r.tokens") +
                          " --synthetic random --documents 3 --lengths 500");
  ASSERT_EQ(prepared.exit_code, 0) << prepared.output;
  const auto file = TokenFile::open(files.path("r.tokens"), TokenFile::Verify::kAtOpen);
  ASSERT_EQ(file->num_documents(), 3);
  EXPECT_EQ(file->num_tokens(), 1500);
  for (int64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(file->document(i).loss_mask.count(1, 499), 499);
    for (int64_t other = 0; other < i; ++other)
      EXPECT_FALSE(std::ranges::equal(file->document(i).tokens.bytes(),
                                      file->document(other).tokens.bytes()));
  }
}

TEST(Recall, OptionsThatCannotBeAreRefused) {
  TinyRun run;
  ASSERT_EQ(run.train(1, "run", {"train.steps=2"}).exit_code, 0);
  auto refuses = [&](const std::string& arguments, const std::string& reason) {
    const ProgramResult result = run_longship(0, arguments);
    EXPECT_EQ(result.exit_code, 2) << arguments << "\n" << result.output;
    EXPECT_NE(result.output.find(reason), std::string::npos) << arguments << "\n" << result.output;
  };
  const std::string eval = "eval " + run.folder("run");
  refuses(eval, "--recall");
  refuses(eval + " --recall --tokens " + run.tokens(), "--tokens");
  refuses(eval + " --tokens " + run.tokens() + " --depths 50", "--recall");
  refuses(eval + " --recall --lengths 50", "--lengths 50");
  refuses(eval + " --recall --tasks associative --lengths 32,20", "at least 33 tokens for 8 pairs");
  refuses(eval + " --recall --lengths 128 --depths 101", "--depths 101");
  refuses(eval + " --recall --lengths 128,nine", "nine");
  refuses(eval + " --recall --lengths 999 --pairs 86", "1 to 85");
  refuses(eval + " --recall --lengths 128 --samples 0", "--samples 0");
  refuses(eval + " --recall --tasks needle", "unknown recall task `needle`");
  const std::string prepare = "prepare --output " + run.files().path("x.tokens");
  refuses(prepare, "--synthetic");
  refuses(prepare + " --synthetic needle", "needle");
  refuses(prepare + " --synthetic passkey --documents 0", "--documents 0");
  refuses(prepare + " --synthetic associative --lengths 20", "8 pairs");
  refuses(prepare + " --synthetic random --lengths 1", "--lengths 1");
  refuses(prepare + " --input " + run.files().path("text") + " --pairs 3", "--synthetic");
  EXPECT_FALSE(std::ifstream(run.files().path("x.tokens")).good());
}

}  // namespace
}  // namespace longship::testing
