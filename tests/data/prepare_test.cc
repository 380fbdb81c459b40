#include "data/prepare.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "data/token_file.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/sentencepiece_model.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

constexpr const char* kBom = "\xEF\xBB\xBF";

class PrepareTest : public ::testing::Test {
 protected:
  PrepareOptions options(std::vector<std::string> inputs) const {
    PrepareOptions options;
    for (const std::string& input : inputs) options.inputs.push_back(folder_.path(input));
    options.out = folder_.path("out.tokens");
    options.tokenizer = make_byte_tokenizer();
    options.num_threads = 2;
    options.overwrite = true;
    return options;
  }

  PrepareReport run(const PrepareOptions& options) {
    const PrepareReport report = prepare(options);
    file_ = TokenFile::open(options.out, TokenFile::Verify::kAtOpen);
    EXPECT_EQ(file_->tokenizer_hash(), options.tokenizer->hash());
    EXPECT_EQ(report.lengths.num_documents(), file_->num_documents());
    EXPECT_EQ(report.lengths.num_tokens(), file_->num_tokens());
    return report;
  }

  std::vector<int32_t> tokens(int64_t document) const {
    const TokenView view = file_->document(document).tokens;
    std::vector<int32_t> ids(static_cast<size_t>(view.size()));
    view.copy_to(ids.data(), 0, view.size());
    return ids;
  }

  // The documents as text, each checked to lie between <bos> and <eos>.
  std::vector<std::string> texts() const {
    const auto tokenizer = make_byte_tokenizer();
    std::vector<std::string> texts;
    for (int64_t d = 0; d < file_->num_documents(); ++d) {
      const std::vector<int32_t> ids = tokens(d);
      EXPECT_EQ(ids.front(), tokenizer->bos());
      EXPECT_EQ(ids.back(), tokenizer->eos());
      texts.push_back(tokenizer->decode(ids));
    }
    return texts;
  }

  // After an error, neither the output nor anything temporary is left.
  void refuse(const PrepareOptions& options, ErrorCode code,
              std::initializer_list<std::string> parts) {
    const int64_t before = folder_.num_entries();
    expect_error(code, parts, [&] { prepare(options); });
    EXPECT_EQ(folder_.num_entries(), before);
  }
  void refuse_line(std::string_view content, std::initializer_list<std::string> parts) {
    folder_.write("bad.jsonl", content);
    refuse(options({"bad.jsonl"}), ErrorCode::kCorrupt, parts);
  }

  using Texts = std::vector<std::string>;
  TemporaryFolder folder_;
  std::shared_ptr<const TokenFile> file_;
};

TEST_F(PrepareTest, ATextFileIsADocumentBetweenBosAndEos) {
  folder_.write("a.txt", "h\xC3\xA9!");
  const PrepareReport report = run(options({"a.txt"}));
  EXPECT_EQ(tokens(0), (std::vector<int32_t>{256, 'h', 0xC3, 0xA9, '!', 257}));
  EXPECT_FALSE(file_->has_loss_mask());
  EXPECT_EQ(report.text_bytes, 4);
  EXPECT_EQ(report.num_loss_tokens, 5);
}

TEST_F(PrepareTest, ByteOrderMarksAndCarriageReturnsOfLineEndsGo) {
  folder_.write("a.txt", std::string(kBom) + "one\r\ntwo\rthree\r\r\nfour\r");
  folder_.write("b.jsonl",
                std::string(kBom) + "{\"text\": \"x\\r\\ny\"}\r\n{\"text\": \"z\"}\r\n\r\n");
  run(options({"a.txt", "b.jsonl"}));
  EXPECT_EQ(texts(), (Texts{"one\ntwo\rthree\r\nfour\r", "x\r\ny", "z"}));
}

TEST_F(PrepareTest, JsonLinesGiveTheirTextFieldWhateverElseTheyHold) {
  std::string nested(100'000, '[');
  nested.append(100'000, ']');
  folder_.write("a.jsonl",
                "{\"text\": \"caf\\u00e9 \\ud83d\\udea2 \\u0000!\", \"n\": 1e300}\n"
                "\n   \t\n"
                "  {\"id\": {\"text\": 5}, \"text\":\"second\"}  \n"
                "{\"deep\": " +
                    nested +
                    ", \"text\": \"third\"}\n"
                    "{\"text\": \"no newline at the end\"}");
  run(options({"a.jsonl"}));
  EXPECT_EQ(texts(), (Texts{std::string("caf\xC3\xA9 \xF0\x9F\x9A\xA2 \0!", 13), "second", "third",
                            "no newline at the end"}));
}

TEST_F(PrepareTest, OtherFieldsCanBeNamed) {
  folder_.write("a.jsonl", "{\"content\": \"answer\", \"question\": \"q\", \"prompt\": 5}\n");
  PrepareOptions chosen = options({"a.jsonl"});
  chosen.text_field = "content";
  chosen.prompt_field = "";
  run(chosen);
  EXPECT_EQ(texts(), (Texts{"answer"}));
  EXPECT_FALSE(file_->has_loss_mask());
  chosen.prompt_field = "question";
  run(chosen);
  EXPECT_EQ(texts(), (Texts{"qanswer"}));
}

TEST_F(PrepareTest, TokensOfAPromptDoNotCountInTheLoss) {
  folder_.write("a.jsonl",
                "{\"text\": \"plain\"}\n"
                "{\"text\": \"yes\", \"prompt\": \"really?\"}\n"
                "{\"text\": \"none\", \"prompt\": \"\"}\n");
  const PrepareReport report = run(options({"a.jsonl"}));
  EXPECT_EQ(texts(), (Texts{"plain", "really?yes", "none"}));
  EXPECT_EQ(report.num_loss_tokens, 6 + 4 + 5);
  EXPECT_EQ(report.text_bytes, 5 + 10 + 4);
  ASSERT_TRUE(file_->has_loss_mask());
  for (int64_t d : {0, 1, 2}) {
    const DocumentView view = file_->document(d);
    for (int64_t i = 0; i < view.tokens.size(); ++i)
      EXPECT_EQ(view.loss_mask[i], d != 1 || i > 7) << "document " << d << " token " << i;
  }
}

TEST_F(PrepareTest, FoldersAreReadInTheOrderOfTheirPaths) {
  for (const char* name :
       {"in/b.txt", "in/a/z.txt", "in/a/y.jsonl", "in/c/deep/er/x.TXT", "in/B.txt",
        "in/.hidden.txt", "in/.git/q.txt", "in/readme.md", "in/noextension"})
    folder_.write(name,
                  std::string(name).ends_with("jsonl") ? "{\"text\": \"in/a/y.jsonl\"}" : name);
  folder_.write("first.txt", "first.txt");
  std::filesystem::create_directory_symlink(folder_.path("in/c"), folder_.path("in/link"));
  const PrepareReport report = run(options({"first.txt", "in"}));
  EXPECT_EQ(texts(), (Texts{"first.txt", "in/B.txt", "in/a/y.jsonl", "in/a/z.txt", "in/b.txt",
                            "in/c/deep/er/x.TXT", "in/c/deep/er/x.TXT"}));
  EXPECT_EQ(report.num_files, 7);
  EXPECT_EQ(report.num_skipped_files, 2);
}

TEST_F(PrepareTest, TextFilesCanBeSplit) {
  folder_.write("a.txt", "one\r\n\r\ntwo\n\n\n\n   \n\nthree\n\n");
  folder_.write("b.jsonl", "{\"text\": \"not\\n\\nsplit\"}");
  PrepareOptions split = options({"a.txt", "b.jsonl"});
  split.split_on = "\n\n";
  const PrepareReport report = run(split);
  EXPECT_EQ(texts(), (Texts{"one", "two", "three", "not\n\nsplit"}));
  EXPECT_EQ(report.num_empty_documents, 2);
}

TEST_F(PrepareTest, DocumentsWithoutTextAndShortOnesAreDroppedAndCounted) {
  folder_.write("a.jsonl",
                "{\"text\": \"\"}\n{\"text\": \" \\n\\t \", \"prompt\": \"p\"}\n"
                "{\"text\": \"abc\"}\n{\"text\": \"abcd\"}\n");
  folder_.write("b.txt", "\r\n");
  folder_.write("c.txt", kBom);
  PrepareOptions longer = options({"a.jsonl", "b.txt", "c.txt"});
  longer.min_tokens = 6;
  const PrepareReport report = run(longer);
  EXPECT_EQ(texts(), (Texts{"abcd"}));
  EXPECT_EQ(report.num_empty_documents, 4);
  EXPECT_EQ(report.num_short_documents, 1);
}

TEST_F(PrepareTest, InvalidUtf8IsReplacedOnRequest) {
  folder_.write("a.txt", "good \xFF\xC3 end");
  folder_.write("b.jsonl", "{\"text\": \"\xE2\x82\"}\n");
  PrepareOptions replace = options({"a.txt", "b.jsonl"});
  replace.allow_invalid_utf8 = true;
  const PrepareReport report = run(replace);
  EXPECT_EQ(texts(), (Texts{"good \xEF\xBF\xBD\xEF\xBF\xBD end", "\xEF\xBF\xBD"}));
  EXPECT_EQ(report.num_replaced, 3);
  EXPECT_NE(report.text().find("replaced   3"), std::string::npos);
}

// More than one window of text, many documents of very different lengths.
TEST_F(PrepareTest, OutputDoesNotDependOnTheNumberOfThreads) {
  std::string lines;
  for (uint64_t d = 0; lines.size() < (size_t{33} << 20); ++d) {
    const size_t length = uniform_index(1, 1, d, d % 50 == 0 ? 900'000 : 3000);
    lines += "{\"text\": \"" + std::to_string(d) +
             std::string(length, static_cast<char>('a' + d % 26)) + "\"" +
             (d % 3 == 0 ? ", \"prompt\": \"why?\"" : "") + "}\n";
  }
  folder_.write("a.jsonl", lines);
  folder_.write("b.txt", "the end");
  std::vector<uint64_t> hashes;
  for (int num_threads : {1, 4, 3}) {
    PrepareOptions threads = options({"a.jsonl", "b.txt"});
    threads.num_threads = num_threads;
    run(threads);
    // Covers the checksums of every block and of the index.
    hashes.push_back(file_->content_hash());
  }
  EXPECT_EQ(hashes, std::vector<uint64_t>(3, hashes[0]));
}

TEST_F(PrepareTest, EncodesWithSentencePiece) {
  folder_.write("a.jsonl", "{\"text\": \"the quick brown fox\", \"prompt\": \"the lazy dog\"}\n");
  PrepareOptions pieces = options({"a.jsonl"});
  pieces.tokenizer = load_sentencepiece(
      folder_.write("t.model", testing::train_sentencepiece("--vocab_size=60 --model_type=bpe")));
  run(pieces);
  std::vector<int32_t> expected = {1};
  for (const char* text : {"the lazy dog", "the quick brown fox"})
    for (int32_t token : pieces.tokenizer->encode(text)) expected.push_back(token);
  expected.push_back(2);
  EXPECT_EQ(tokens(0), expected);
  EXPECT_EQ(file_->tokenizer_description(), "SentencePiece t.model, 60 ids");
  const auto num_prompt = static_cast<int64_t>(pieces.tokenizer->encode("the lazy dog").size()) + 1;
  EXPECT_FALSE(file_->document(0).loss_mask[num_prompt - 1]);
  EXPECT_TRUE(file_->document(0).loss_mask[num_prompt]);
}

TEST_F(PrepareTest, ReportTellsWhatWasMade) {
  folder_.write("in/a.jsonl", "{\"text\": \"abcdef\"}\n{\"text\": \"\"}\n");
  folder_.write("in/b.csv", "");
  const std::string text = run(options({"in"})).text();
  for (const char* part :
       {"out.tokens", "byte-level, 258 ids", "files      1 (1 of other kinds left out)",
        "text       6 bytes", "documents  1 (dropped: 1 without text, 0 too short)",
        "tokens     8 (0.75 bytes of text each; 7 count in the loss)", "p50 8", "< 16"})
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
}

TEST_F(PrepareTest, RefusesTextThatIsNotUtf8WithLineAndByte) {
  folder_.write("a.txt", "fine\nalso fine\nbad \xFF\n");
  refuse(options({"a.txt"}), ErrorCode::kCorrupt,
         {"a.txt:3: not valid UTF-8", "byte 0xff at offset 19", "--allow-invalid-utf8"});
  folder_.write("b.txt", std::string("\xFF\xFEh\0i\0", 6));
  refuse(options({"b.txt"}), ErrorCode::kCorrupt, {"b.txt:1", "UTF-16"});
  refuse_line("{\"text\": \"fine\"}\n{\"text\": \"\xC3(\"}\n",
              {"bad.jsonl:2: not valid UTF-8", "0xc3 at offset 27"});
}

TEST_F(PrepareTest, RefusesLinesThatAreNotTheJsonExpected) {
  const std::string good = "{\"text\": \"fine\"}\n";
  refuse_line(good + good + "{\"text\": }\n" + good,
              {"bad.jsonl:3: not a JSON line", "unexpected"});
  refuse_line(good + "{\"text\": \"cut o", {"bad.jsonl:2", "cut off"});
  refuse_line(good + "\n{\"Text\": \"x\", \"id\": 1}\n",
              {"bad.jsonl:3: field `text`", "no such field among the fields Text, id"});
  refuse_line("{}\n", {"bad.jsonl:1", "an empty object"});
  refuse_line("{\"text\": null}\n", {"bad.jsonl:1: field `text`", "a string", "null"});
  refuse_line("{\"text\": \"a\", \"prompt\": [1]}\n", {"bad.jsonl:1: field `prompt`", "array"});
  refuse_line("[\"text\"]\n", {"bad.jsonl:1: not a JSON object", "array"});
  refuse_line("\"text\"\n", {"bad.jsonl:1", "string"});
  refuse_line("{\"text\": \"a\"} {\"text\": \"b\"}\n", {"bad.jsonl:1: not a JSON line"});
  refuse_line("{\"text\": \"\\ud800\"}\n", {"bad.jsonl:1", "surrogate"});
  refuse_line("{\"text\": \"a\", \"n\": 1e999}\n", {"bad.jsonl:1", "overflow"});
  refuse_line(std::string(1'000'000, '['), {"bad.jsonl:1"});
}

TEST_F(PrepareTest, NamesTheFirstBadLineForAnyNumberOfThreads) {
  std::string lines;
  for (int line = 1; line <= 400; ++line)
    lines += line % 100 == 77 ? "bad\n" : "{\"text\": \"some text\"}\n";
  for (int repeat = 0; repeat < 5; ++repeat) refuse_line(lines, {"bad.jsonl:77: "});
}

TEST_F(PrepareTest, RefusesInputWithoutAnyDocument) {
  folder_.write("empty.txt", "");
  folder_.write("blank.jsonl", "\n{\"text\": \" \"}\n");
  refuse(options({"empty.txt", "blank.jsonl"}), ErrorCode::kCorrupt,
         {"no document", "files: 2; documents dropped: 2 without text"});
  folder_.write("short.txt", "ab");
  PrepareOptions longer = options({"short.txt"});
  longer.min_tokens = 5;
  refuse(longer, ErrorCode::kCorrupt, {"1 shorter than 5 tokens"});
}

TEST_F(PrepareTest, RefusesInputsThatCannotBeRead) {
  folder_.write("a.txt", "text");
  folder_.write("folder/a.csv", "x");
  refuse(options({}), ErrorCode::kConfig, {"no input"});
  refuse(options({"missing.txt"}), ErrorCode::kStorage, {"missing.txt"});
  refuse(options({"a.txt", "folder/a.csv"}), ErrorCode::kConfig, {"a.csv", "unknown kind", ".csv"});
  refuse(options({"folder"}), ErrorCode::kConfig, {"no text in folder", "1 other files"});
  std::filesystem::create_directory_symlink(folder_.path("folder"), folder_.path("folder/loop"));
  refuse(options({"folder"}), ErrorCode::kStorage, {"circle of symbolic links"});
}

TEST_F(PrepareTest, RefusesOutputsThatCannotBeWritten) {
  folder_.write("a.txt", "text");
  folder_.write("folder/x.txt", "text");
  PrepareOptions chosen = options({"a.txt"});
  auto refuse_out = [&](const std::string& out, ErrorCode code,
                        std::initializer_list<std::string> parts) {
    chosen.out = out;
    refuse(chosen, code, parts);
  };
  refuse_out("", ErrorCode::kConfig, {"no output"});
  refuse_out(folder_.path("folder"), ErrorCode::kConfig, {"is a folder"});
  refuse_out(folder_.path("a.txt"), ErrorCode::kConfig, {"input and output"});
  refuse_out(folder_.path("absent/out.tokens"), ErrorCode::kStorage, {"absent/out.tokens"});
  EXPECT_EQ(folder_.read("a.txt"), "text");

  folder_.write("old.tokens", "old");
  chosen.overwrite = false;
  refuse_out(folder_.path("old.tokens"), ErrorCode::kConfig, {"old.tokens exists", "--overwrite"});
  EXPECT_EQ(folder_.read("old.tokens"), "old");
  chosen.overwrite = true;
  run(chosen);
  EXPECT_EQ(texts(), (Texts{"text"}));
}

TEST_F(PrepareTest, AnErrorKeepsTheOutputThatWasThere) {
  folder_.write("a.txt", "text");
  run(options({"a.txt"}));
  const std::string before = folder_.read("out.tokens");
  folder_.write("b.txt", "\xFF");
  refuse(options({"a.txt", "b.txt"}), ErrorCode::kCorrupt, {"b.txt:1"});
  EXPECT_EQ(folder_.read("out.tokens"), before);
}

TEST_F(PrepareTest, RefusesOptionsThatCannotBe) {
  folder_.write("a.txt", "text");
  PrepareOptions none = options({"a.txt"});
  none.num_threads = 0;
  refuse(none, ErrorCode::kConfig, {"0 threads"});
  PrepareOptions same = options({"a.txt"});
  same.prompt_field = "text";
  refuse(same, ErrorCode::kConfig, {"two different fields"});
}

}  // namespace
}  // namespace longship
