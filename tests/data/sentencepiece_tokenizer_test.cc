#include <google/protobuf/struct.pb.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <thread>

#include "data/tokenizer.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/sentencepiece_model.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;
using testing::train_sentencepiece;

constexpr const char* kIdentity =
    "--normalization_rule_name=identity --add_dummy_prefix=false "
    "--remove_extra_whitespaces=false --byte_fallback=true";

TEST(SentencePiece, DecodeIsTheInverseOfEncodeWithoutNormalisation) {
  const TemporaryFolder folder;
  for (const char* type : {"bpe", "unigram"}) {
    const std::string path = folder.write(
        "tiny.model", train_sentencepiece(std::string("--vocab_size=320 --model_type=") + type +
                                          " " + kIdentity));
    const auto tokenizer = load_sentencepiece(path);
    for (const std::string text :
         {"the quick brown fox", "  two  spaces\nand a line\t",
          "unseen: \xe6\xb0\xb4 \xf0\x9f\x9a\xa2", "</s> is text here", ""}) {
      const std::vector<int32_t> tokens = tokenizer->encode(text);
      EXPECT_EQ(tokenizer->decode(tokens), text) << type;
      for (int32_t token : tokens) {
        EXPECT_TRUE(token >= 0 && token < tokenizer->vocab_size());
        EXPECT_NE(token, tokenizer->eos());
      }
    }
  }
}

TEST(SentencePiece, OffersVocabularySpecialIdsAndHashOfItsFile) {
  const TemporaryFolder folder;
  const std::string model = train_sentencepiece("--vocab_size=60 --model_type=bpe");
  const auto first = make_tokenizer(folder.write("a.model", model));
  const auto copy = make_tokenizer(folder.write("b.model", model));
  const auto other = make_tokenizer(
      folder.write("c.model", train_sentencepiece("--vocab_size=61 --model_type=bpe")));
  EXPECT_EQ(first->vocab_size(), 60);
  EXPECT_LT(first->encode("the quick brown fox").size(), 19u);
  EXPECT_EQ(first->bos(), 1);
  EXPECT_EQ(first->eos(), 2);
  EXPECT_EQ(first->hash(), copy->hash());
  EXPECT_NE(first->hash(), other->hash());
  EXPECT_NE(first->hash(), make_byte_tokenizer()->hash());
  EXPECT_EQ(first->description(), "SentencePiece a.model, 60 ids");
  EXPECT_EQ(first->decode(std::vector<int32_t>{1, 2}), "");
  EXPECT_THROW(first->decode(std::vector<int32_t>{60}), Error);
  EXPECT_THROW(first->decode(std::vector<int32_t>{-1}), Error);
}

TEST(SentencePiece, GivesTheSameIdsOnManyThreadsAtOnce) {
  const TemporaryFolder folder;
  const auto tokenizer = load_sentencepiece(
      folder.write("t.model", train_sentencepiece("--vocab_size=60 --model_type=unigram")));
  const std::string text = "the lazy dog jumps over the quick brown fox";
  const std::vector<int32_t> expected = tokenizer->encode(text);
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  for (size_t t = 0; t < equal.size(); ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) equal[t] += tokenizer->encode(text) == expected;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 50));
}

TEST(SentencePiece, RefusesFilesThatAreNotModels) {
  const TemporaryFolder folder;
  auto expect_refusal = [](ErrorCode code, const std::string& path) {
    expect_error(code, {path}, [&] { load_sentencepiece(path); });
  };
  expect_refusal(ErrorCode::kStorage, folder.path("missing.model"));
  expect_refusal(ErrorCode::kStorage, folder.path(""));
  expect_refusal(ErrorCode::kCorrupt, folder.write("empty.model", ""));
  expect_refusal(ErrorCode::kCorrupt, folder.write("text.model", "just some text\n"));
  const std::string model = train_sentencepiece("--vocab_size=60 --model_type=bpe");
  for (size_t length : {size_t{1}, size_t{100}, model.size() / 2, model.size() - 1})
    expect_refusal(ErrorCode::kCorrupt, folder.write("cut.model", model.substr(0, length)));
}

// The library itself reads out of bounds for some of these.
TEST(SentencePiece, DamagedModelsAreRefusedOrHarmless) {
  const TemporaryFolder folder;
  const std::string model = train_sentencepiece("--vocab_size=60 --model_type=bpe");
  int num_bad_tables = 0;
  for (uint64_t n = 0; n < 300; ++n) {
    std::string bad = model;
    for (uint64_t k = 0; k < 4; ++k)
      bad[uniform_index(n, 1, k, bad.size())] = static_cast<char>(uniform_index(n, 2, k, 256));
    try {
      const auto tokenizer = load_sentencepiece(folder.write("bad.model", bad));
      tokenizer->decode(tokenizer->encode("the quick \xef\xbd\xb1 brown \xe2\x84\xab fox"));
    } catch (const Error& error) {
      num_bad_tables += std::string(error.what()).find("normalisation table") != std::string::npos;
    }
  }
  EXPECT_GT(num_bad_tables, 50);
}

TEST(SentencePiece, RefusesAModelWithoutDocumentMarks) {
  const TemporaryFolder folder;
  for (const char* absent : {" --bos_id=-1", " --eos_id=-1"}) {
    const std::string path =
        folder.write("unmarked.model",
                     train_sentencepiece(std::string("--vocab_size=60 --model_type=bpe") + absent));
    expect_error(ErrorCode::kConfig, {path, "-1"}, [&] { load_sentencepiece(path); });
  }
}

// Both libraries carry Protobuf symbols of different versions; each must use its own.
TEST(SentencePiece, WorksBesideProtobufInOneProgram) {
  google::protobuf::Struct parsed;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "fields { key: 'context' value { number_value: 32768 } }", &parsed));
  const TemporaryFolder folder;
  const auto tokenizer = load_sentencepiece(
      folder.write("t.model", train_sentencepiece("--vocab_size=60 --model_type=bpe")));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("the lazy dog")), "the lazy dog");
  google::protobuf::Struct copy;
  ASSERT_TRUE(copy.ParseFromString(parsed.SerializeAsString()));
  EXPECT_EQ(copy.fields().at("context").number_value(), 32768);
}

}  // namespace
}  // namespace longship
