#include "launch/recall_tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/support/expect_error.h"
#include "tests/support/sentencepiece_model.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;

std::vector<std::shared_ptr<const Tokenizer>> tokenizers() {
  static const testing::TemporaryFolder folder;
  static const std::string model = folder.write(
      "small.model",
      testing::train_sentencepiece("--vocab_size=60 --model_type=bpe --byte_fallback=false"));
  return {make_byte_tokenizer(), load_sentencepiece(model)};
}

std::vector<int32_t> part(const RecallSample& sample, int64_t begin, int64_t length) {
  return {sample.tokens.begin() + begin, sample.tokens.begin() + begin + length};
}

// How often the tokens of an answer stand in [0, end).
int64_t occurrences(const RecallSample& sample, const RecallAnswer& answer, int64_t end) {
  const std::vector<int32_t> wanted = part(sample, answer.begin, answer.length);
  int64_t count = 0;
  for (int64_t i = 0; i + answer.length <= end; ++i)
    count += part(sample, i, answer.length) == wanted ? 1 : 0;
  return count;
}

TEST(PasskeyTask, TellsTheKeyOnceAtTheDepthAskedFor) {
  for (const auto& tokenizer : tokenizers()) {
    const PasskeyTask task(*tokenizer);
    for (int64_t extra : {0, 1, 99, 1000})
      for (int64_t depth : {0, 1, 50, 99, 100})
        for (int64_t index = 0; index < 4; ++index) {
          const int64_t length = task.least_length(7, index) + extra;
          const RecallSample sample = task.sample(length, depth, 7, index);
          ASSERT_EQ(std::ssize(sample.tokens), length);
          EXPECT_EQ(sample.tokens.front(), tokenizer->bos());
          ASSERT_EQ(sample.answers.size(), 1u);
          const RecallAnswer& answer = sample.answers.front();
          EXPECT_EQ(answer.begin + answer.length, length);  // it ends the document
          EXPECT_EQ(occurrences(sample, answer, answer.begin), 1);
          EXPECT_EQ(part(sample, answer.stated_at, answer.length),
                    part(sample, answer.begin, answer.length));
          // <bos>, filler, and the words before the key.
          const int64_t before = std::ssize(tokenizer->encode(" The pass key is"));
          EXPECT_EQ(answer.stated_at, 1 + extra * depth / 100 + before);
        }
  }
}

TEST(PasskeyTask, ReadsAsTextWithAQuestion) {
  const auto tokenizer = make_byte_tokenizer();
  const PasskeyTask task(*tokenizer);
  const RecallSample sample = task.sample(400, 50, 3, 0);
  const std::string text = tokenizer->decode(sample.tokens);
  const size_t told = text.find(" The pass key is ");
  ASSERT_NE(told, std::string::npos) << text;
  const std::string key = text.substr(told + 17, 5);
  EXPECT_TRUE(std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; })) << key;
  EXPECT_EQ(text.substr(told, 36), " The pass key is " + key + ". Remember it.");
  EXPECT_TRUE(text.ends_with(" What is the pass key? The pass key is " + key)) << text;
  EXPECT_TRUE(text.starts_with("The grass is green. The sky is blue.")) << text;
}

TEST(PasskeyTask, KeysDependOnSeedAndNumberOnly) {
  const auto tokenizer = make_byte_tokenizer();
  const PasskeyTask task(*tokenizer);
  auto key = [&](int64_t length, int64_t depth, uint64_t seed, int64_t index) {
    const RecallSample sample = task.sample(length, depth, seed, index);
    return part(sample, sample.answers[0].begin, sample.answers[0].length);
  };
  EXPECT_EQ(key(200, 0, 1, 0), key(500, 80, 1, 0));
  EXPECT_EQ(task.sample(300, 40, 2, 5).tokens, task.sample(300, 40, 2, 5).tokens);
  std::set<std::vector<int32_t>> keys;
  for (uint64_t seed = 0; seed < 10; ++seed)
    for (int64_t index = 0; index < 10; ++index) keys.insert(key(200, 50, seed, index));
  EXPECT_GE(keys.size(), 98u);  // of 90000, two may be the same by chance
}

TEST(PasskeyTask, RefusesWhatDoesNotFit) {
  const auto tokenizer = make_byte_tokenizer();
  const PasskeyTask task(*tokenizer);
  const int64_t least = task.least_length(0, 0);
  task.sample(least, 0, 0, 0);
  expect_error(ErrorCode::kConfig, {std::to_string(least - 1), std::to_string(least)},
               [&] { task.sample(least - 1, 0, 0, 0); });
  expect_error(ErrorCode::kConfig, {"depth 101"}, [&] { task.sample(500, 101, 0, 0); });
  expect_error(ErrorCode::kConfig, {"depth -1"}, [&] { task.sample(500, -1, 0, 0); });
}

TEST(AssociativeTask, GivesEveryPairOnceAndAsksForItOnceLater) {
  for (const auto& tokenizer : tokenizers()) {
    const AssociativeTask task(*tokenizer);
    for (int64_t pairs : {int64_t{1}, int64_t{7}, task.max_pairs()})
      for (int64_t extra : {0, 3, 500}) {
        const int64_t length = AssociativeTask::least_length(pairs) + extra;
        const RecallSample sample = task.sample(length, pairs, 9, 2);
        ASSERT_EQ(std::ssize(sample.tokens), length);
        EXPECT_EQ(sample.tokens.front(), tokenizer->bos());
        ASSERT_EQ(std::ssize(sample.answers), pairs);
        EXPECT_EQ(std::ranges::count(sample.tokens, tokenizer->eos()), 0);
        std::set<int64_t> stated;
        int64_t last = 2 * pairs;
        for (const RecallAnswer& answer : sample.answers) {
          EXPECT_EQ(answer.length, 1);
          EXPECT_EQ(occurrences(sample, answer, answer.begin), 1);
          EXPECT_TRUE(answer.stated_at <= 2 * pairs && answer.stated_at % 2 == 0);
          EXPECT_GE(answer.begin - 1, last + 1);
          last = answer.begin;
          stated.insert(answer.stated_at);
          // The key before the value is that of the pair, and is nowhere else.
          const auto value = sample.tokens.begin() + answer.begin;
          EXPECT_EQ(*(value - 1), sample.tokens[static_cast<size_t>(answer.stated_at - 1)]);
          EXPECT_EQ(std::ranges::count(sample.tokens, *(value - 1)), 2);
          EXPECT_EQ(std::ranges::count(sample.tokens, *value), 2);
        }
        EXPECT_EQ(std::ssize(stated), pairs);
      }
  }
}

TEST(AssociativeTask, DiffersBySeedAndNumberAndAsksInAnotherOrder) {
  const auto tokenizer = make_byte_tokenizer();
  const AssociativeTask task(*tokenizer);
  EXPECT_EQ(task.sample(200, 9, 1, 4).tokens, task.sample(200, 9, 1, 4).tokens);
  EXPECT_NE(task.sample(200, 9, 1, 4).tokens, task.sample(200, 9, 2, 4).tokens);
  EXPECT_NE(task.sample(200, 9, 1, 4).tokens, task.sample(200, 9, 1, 5).tokens);
  int64_t in_order = 0;
  for (int64_t index = 0; index < 20; ++index)
    in_order +=
        std::ranges::is_sorted(task.sample(200, 9, 1, index).answers, {}, &RecallAnswer::stated_at);
  EXPECT_EQ(in_order, 0);
}

TEST(AssociativeTask, RefusesWhatDoesNotFit) {
  const auto tokenizer = make_byte_tokenizer();
  const AssociativeTask task(*tokenizer);
  EXPECT_EQ(task.max_pairs(), 85);
  expect_error(ErrorCode::kConfig, {"86 pairs", "1 to 85"}, [&] { task.sample(999, 86, 0, 0); });
  expect_error(ErrorCode::kConfig, {"0 pairs"}, [&] { task.sample(999, 0, 0, 0); });
  expect_error(ErrorCode::kConfig, {"8 pairs", "32 tokens"}, [&] { task.sample(32, 8, 0, 0); });
}

}  // namespace
}  // namespace longship
