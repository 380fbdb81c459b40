#include "data/token_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "runtime/io/checksum.h"
#include "tests/data/token_file_fixture.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::RandomDocuments;
using testing::TemporaryFolder;

const std::vector<int64_t> kLengths = {3, 1, 70, 0, 2, 129, 64};

void expect_equal(const TokenFile& file, const RandomDocuments& documents) {
  ASSERT_EQ(file.num_documents(), std::ssize(documents.tokens));
  for (size_t d = 0; d < documents.tokens.size(); ++d) {
    const DocumentView view = file.document(static_cast<int64_t>(d));
    ASSERT_EQ(view.tokens.size(), std::ssize(documents.tokens[d]));
    std::vector<int32_t> copy(documents.tokens[d].size(), -1);
    view.tokens.copy_to(copy.data(), 0, view.tokens.size());
    EXPECT_EQ(copy, documents.tokens[d]) << "document " << d;
    for (size_t i = 0; i < copy.size(); ++i)
      ASSERT_EQ(view.loss_mask[static_cast<int64_t>(i)], documents.counts(d, i))
          << "document " << d << " token " << i;
  }
}

TEST(TokenFile, ReturnsWhatWasWritten) {
  const TemporaryFolder folder;
  for (int64_t vocab_size : {258, 65536, 65537, 2147483647})
    for (size_t first_masked : {size_t{0}, size_t{2}, SIZE_MAX}) {
      const RandomDocuments documents = RandomDocuments::make(kLengths, vocab_size, first_masked);
      documents.write(folder.path("a.tokens"), vocab_size);
      const auto file = TokenFile::open(folder.path("a.tokens"), TokenFile::Verify::kAtOpen);
      EXPECT_EQ(file->vocab_size(), vocab_size);
      EXPECT_EQ(file->token_bytes(), vocab_size <= 65536 ? 2 : 4);
      EXPECT_EQ(file->has_loss_mask(), first_masked != SIZE_MAX);
      EXPECT_EQ(file->num_tokens(), 269);
      EXPECT_EQ(file->document_lengths(), kLengths);
      EXPECT_EQ(file->tokenizer_description(), "numbers");
      expect_equal(*file, documents);
    }
}

TEST(TokenFile, ReturnsWhatWasWrittenAcrossManyBlocks) {
  const TemporaryFolder folder;
  const std::vector<int64_t> lengths = {400'000, 300'000, 1, 200'001, 262'144};
  const RandomDocuments documents = RandomDocuments::make(lengths, 70'000, 1);
  documents.write(folder.path("a.tokens"), 70'000);
  expect_equal(*TokenFile::open(folder.path("a.tokens")), documents);
}

TEST(TokenFile, HoldsNoDocumentAtAll) {
  const TemporaryFolder folder;
  RandomDocuments{}.write(folder.path("a.tokens"), 258);
  const auto file = TokenFile::open(folder.path("a.tokens"), TokenFile::Verify::kAtOpen);
  EXPECT_EQ(file->num_documents(), 0);
  EXPECT_EQ(file->num_tokens(), 0);
}

TEST(TokenFile, PartsOfDocumentsCarryTheirPartOfTheMask) {
  const TemporaryFolder folder;
  const RandomDocuments documents = RandomDocuments::make({100, 333, 57}, 300, 1);
  documents.write(folder.path("a.tokens"), 300);
  const auto file = TokenFile::open(folder.path("a.tokens"));
  for (size_t begin = 0; begin < 333; begin += 7) {
    const auto length = static_cast<int64_t>(std::min<size_t>(150, 333 - begin));
    const DocumentView view = file->document(1, static_cast<int64_t>(begin), length);
    int64_t count = 0, seen = 0;
    for (int64_t i = 0; i < length; ++i) {
      EXPECT_EQ(view.tokens[i], documents.tokens[1][begin + static_cast<size_t>(i)]);
      EXPECT_EQ(view.loss_mask[i], documents.counts(1, begin + static_cast<size_t>(i)));
      count += i >= 5 && documents.counts(1, begin + static_cast<size_t>(i));
    }
    EXPECT_EQ(view.loss_mask.count(5, length - 5), std::max<int64_t>(count, 0));
    view.loss_mask.for_each_word(0, length, [&](uint64_t word) {
      for (int64_t bit = 0; bit < std::min<int64_t>(64, length - seen); ++bit)
        EXPECT_EQ((word >> bit & 1) != 0, view.loss_mask[seen + bit]);
      seen += 64;
    });
  }
}

TEST(TokenFile, ContentHashTellsTokensMasksAndDocumentBordersApart) {
  const TemporaryFolder folder;
  auto hash_of = [&](const RandomDocuments& documents) {
    documents.write(folder.path("a.tokens"), 300);
    return TokenFile::open(folder.path("a.tokens"))->content_hash();
  };
  RandomDocuments documents{.tokens = {{1, 2, 3}, {4, 5}}, .masks = {{}, {1, 0}}};
  const uint64_t original = hash_of(documents);
  EXPECT_EQ(original, hash_of(documents));
  documents.tokens[0][1] = 9;
  EXPECT_NE(original, hash_of(documents));
  documents = {.tokens = {{1, 2, 3}, {4, 5}}, .masks = {{}, {0, 0}}};
  EXPECT_NE(original, hash_of(documents));
  documents = {.tokens = {{1, 2}, {3, 4, 5}}, .masks = {{}, {1, 1, 0}}};
  EXPECT_NE(original, hash_of(documents));
}

TEST(TokenFile, EveryFlippedByteIsFound) {
  const TemporaryFolder folder;
  RandomDocuments::make(kLengths, 300, 2).write(folder.path("good.tokens"), 300);
  const std::string good = folder.read("good.tokens");
  // Every byte but most of the zeros after the description.
  for (size_t at = 0; at<good.size(); at += at> 128 && at < 4000 ? 61 : 1) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
    const std::string path = folder.write("bad.tokens", bad);
    expect_error(ErrorCode::kCorrupt, {path}, [&] {
      TokenFile::open(path, TokenFile::Verify::kAtOpen);
      ADD_FAILURE() << "byte " << at;
    });
  }
}

TEST(TokenFile, EveryTruncationAndEveryAdditionIsFound) {
  const TemporaryFolder folder;
  RandomDocuments::make(kLengths, 300, 2).write(folder.path("good.tokens"), 300);
  const std::string good = folder.read("good.tokens");
  for (size_t length = 0; length < good.size(); length += length < 4090 ? 37 : 1) {
    const std::string path = folder.write("bad.tokens", good.substr(0, length));
    expect_error(ErrorCode::kCorrupt, {path}, [&] { TokenFile::open(path); });
  }
  for (size_t more : {1, 8, 5000}) {
    const std::string path = folder.write("bad.tokens", good + std::string(more, '\0'));
    expect_error(ErrorCode::kCorrupt, {path, "added"}, [&] { TokenFile::open(path); });
  }
}

TEST(TokenFile, AlteredBlocksAreFoundWhenTheyAreTouchedAndNotBefore) {
  const TemporaryFolder folder;
  // 2 bytes a token: three blocks of 524288 tokens and a part.
  const std::vector<int64_t> lengths = {524'288, 524'288, 524'288, 1000};
  const RandomDocuments documents = RandomDocuments::make(lengths, 300);
  documents.write(folder.path("good.tokens"), 300);
  const std::string good = folder.read("good.tokens");
  const size_t header = sizeof(TokenFileHeader), block = size_t{1} << 20;
  // Blocks 0 and 1 change places.
  const std::string swapped = good.substr(0, header) + good.substr(header + block, block) +
                              good.substr(header, block) + good.substr(header + 2 * block);
  const std::string path = folder.write("swapped.tokens", swapped);
  expect_error(ErrorCode::kCorrupt, {path, "block 0", "documents 0 to 0"},
               [&] { TokenFile::open(path, TokenFile::Verify::kAtOpen); });
  const auto file = TokenFile::open(path);
  expect_error(ErrorCode::kCorrupt, {path, "block 1", "bytes 1052672", "documents 1 to 1"},
               [&] { file->document(1, 7, 1); });
  EXPECT_EQ(file->document(2).tokens[0], documents.tokens[2][0]);
  EXPECT_EQ(file->document(3).tokens[999], documents.tokens[3][999]);
  expect_error(ErrorCode::kCorrupt, {"block 0"}, [&] { file->verify(); });
}

TEST(TokenFile, RefusesFilesThatAreMissingOrEmptyOrNoFiles) {
  const TemporaryFolder folder;
  auto open = [](const std::string& path) { return [path] { TokenFile::open(path); }; };
  expect_error(ErrorCode::kStorage, {"none.tokens"}, open(folder.path("none.tokens")));
  expect_error(ErrorCode::kStorage, {folder.path("")}, open(folder.path("")));
  expect_error(ErrorCode::kCorrupt, {"too short", "0 bytes"}, open(folder.write("e", "")));
  expect_error(ErrorCode::kCorrupt, {"not a token file"},
               open(folder.write("text", std::string(5000, 'x'))));
}

TEST(TokenFile, RefusesToReadOnAfterTheFileChanged) {
  const TemporaryFolder folder;
  const std::string path = folder.path("a.tokens");
  RandomDocuments::make({100'000}, 300).write(path, 300);
  auto file = TokenFile::open(path);
  EXPECT_EQ(file->document(0).tokens.size(), 100'000);
  std::filesystem::resize_file(path, 8192);
  expect_error(ErrorCode::kCorrupt, {path, "8192"}, [&] { file->document(0); });
  expect_error(ErrorCode::kCorrupt, {path, "8192"}, [&] { file->document(0, 5, 1); });
  expect_error(ErrorCode::kCorrupt, {path, "8192"}, [&] { file->document_lengths(); });
  expect_error(ErrorCode::kCorrupt, {path, "8192"}, [&] { file->verify(); });

  RandomDocuments::make({100'000}, 300).write(path, 300);
  file = TokenFile::open(path);
  std::filesystem::last_write_time(
      path, std::filesystem::file_time_type::clock::now() + std::chrono::seconds(2));
  expect_error(ErrorCode::kCorrupt, {path, "changed"}, [&] { file->document(0); });
}

// A file whose checksums are right but whose content is not.
class ForgedFile {
 public:
  ForgedFile() {
    RandomDocuments{.tokens = {{1, 2, 3}, {4, 5}}, .masks = {{}, {}}}.write(
        folder_.path("good.tokens"), 300);
    bytes_ = folder_.read("good.tokens");
    std::memcpy(&header, bytes_.data(), sizeof header);
  }

  void put(int64_t offset, int64_t value) {
    std::memcpy(bytes_.data() + offset, &value, sizeof value);
  }

  // The error of opening it and reading all of it.
  void expect_corrupt(std::initializer_list<std::string> parts) {
    const auto index = static_cast<size_t>(good_.index);
    header.index_checksum = checksum(bytes_of(bytes_).subspan(index));
    header.header_checksum = header.compute_checksum();
    std::memcpy(bytes_.data(), &header, sizeof header);
    const std::string path = folder_.write("forged.tokens", bytes_);
    expect_error(ErrorCode::kCorrupt, parts,
                 [&] { TokenFile::open(path, TokenFile::Verify::kAtOpen); });
  }

  TokenFileHeader header;
  const TokenFileLayout& good() const { return good_; }

 private:
  const TokenFileLayout good_ = TokenFileLayout::of(5, 2, 2, false);
  TemporaryFolder folder_;
  std::string bytes_;
};

TEST(TokenFile, RefusesHeadersThatLie) {
  auto forge = [](std::initializer_list<std::string> parts, auto change) {
    ForgedFile file;
    change(file.header);
    file.expect_corrupt(parts);
  };
  forge({"version", "2"}, [](TokenFileHeader& h) { h.version = 2; });
  forge({"byte order", "0x0d0c0b0a"}, [](TokenFileHeader& h) { h.byte_order = 0x0D0C0B0A; });
  forge({"vocabulary size", "0"}, [](TokenFileHeader& h) { h.vocab_size = 0; });
  forge({"vocabulary size"}, [](TokenFileHeader& h) { h.vocab_size = int64_t{1} << 31; });
  forge({"bytes per token", "4"}, [](TokenFileHeader& h) { h.token_bytes = 4; });
  forge({"bytes per token", "0"}, [](TokenFileHeader& h) { h.token_bytes = 0; });
  forge({"flags"}, [](TokenFileHeader& h) { h.flags = 2; });
  forge({"description"}, [](TokenFileHeader& h) { h.description_bytes = 4013; });
  for (int64_t count : {int64_t{-1}, int64_t{6}, int64_t{1} << 40, INT64_MAX, INT64_MIN}) {
    forge({}, [&](TokenFileHeader& h) { h.num_tokens = count; });
    forge({}, [&](TokenFileHeader& h) { h.num_documents = count; });
    forge({}, [&](TokenFileHeader& h) { h.file_bytes = count; });
  }
  forge({"size stated"}, [](TokenFileHeader& h) { h.flags = 1; });
}

TEST(TokenFile, RefusesAnIndexThatLies) {
  const int64_t index = ForgedFile().good().index;
  auto forge = [&](std::initializer_list<std::string> parts, int64_t entry, int64_t value) {
    ForgedFile file;
    file.put(index + entry * 8, value);
    file.expect_corrupt(parts);
  };
  forge({"document index", "begin with 0", "1"}, 0, 1);
  forge({"document index", "begin with 0"}, 0, -1);
  forge({"document index", "6"}, 2, 6);
  forge({"document index", "5 after 7 for document 1"}, 1, 7);
  forge({"document index", "-3 after 0 for document 0"}, 1, -3);
}

TEST(TokenFile, VerifyNamesDocumentAndOffsetOfAnIdOutsideTheVocabulary) {
  ForgedFile file;
  file.header.vocab_size = 5;
  file.expect_corrupt({"document 1, token 1", "below the vocabulary size 5", "found:    5"});
}

TEST(TokenFile, BelongsToOneTokenizer) {
  const TemporaryFolder folder;
  RandomDocuments::make({5}, 300).write(folder.path("a.tokens"), 300);
  const auto file = TokenFile::open(folder.path("a.tokens"));
  EXPECT_NO_THROW(file->check_tokenizer(testing::VocabularyOnly(300)));
  expect_error(ErrorCode::kConfig, {"a.tokens", "byte-level", "numbers"},
               [&] { file->check_tokenizer(*make_byte_tokenizer()); });
}

TEST(TokenFileWriter, LeavesNothingBehindUnlessFinished) {
  const TemporaryFolder folder;
  {
    TokenFileWriter writer(folder.path("a.tokens"), testing::VocabularyOnly(300));
    writer.append(std::vector<int32_t>(2'000'000, 7));
  }
  EXPECT_EQ(folder.num_entries(), 0);
  expect_error(ErrorCode::kStorage, {"absent"}, [&] {
    TokenFileWriter(folder.path("absent/a.tokens"), testing::VocabularyOnly(300));
  });
}

TEST(TokenFileWriter, RefusesIdsOutsideTheVocabulary) {
  const TemporaryFolder folder;
  TokenFileWriter writer(folder.path("a.tokens"), testing::VocabularyOnly(300));
  for (int32_t id : {-1, 300})
    expect_error(ErrorCode::kInternal, {std::to_string(id)}, [&] {
      writer.append(std::vector<int32_t>{0, id});
    });
}

}  // namespace
}  // namespace longship
