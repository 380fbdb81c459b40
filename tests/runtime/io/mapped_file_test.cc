#include "runtime/io/mapped_file.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(MappedFile, ShowsTheBytesOfTheFile) {
  const TemporaryFolder folder;
  MappedFile first = MappedFile::open(folder.write("a", "0123456789"));
  const MappedFile file = std::move(first);
  EXPECT_EQ(file.size(), 10);
  EXPECT_EQ(static_cast<char>(file.bytes()[9]), '9');
  EXPECT_EQ(static_cast<char>(file.range(3, 4, "x")[0]), '3');
  EXPECT_EQ(file.range(10, 0, "x").size(), 0u);
}

TEST(MappedFile, AcceptsAnEmptyFile) {
  const TemporaryFolder folder;
  const MappedFile file = MappedFile::open(folder.write("a", ""));
  EXPECT_EQ(file.size(), 0);
  EXPECT_TRUE(file.bytes().empty());
  EXPECT_TRUE(file.array<int64_t>(0, 0, "x").empty());
  expect_error(ErrorCode::kCorrupt, {"header"}, [&] { file.range(0, 1, "header"); });
}

TEST(MappedFile, RefusesRangesOutsideTheFile) {
  const TemporaryFolder folder;
  const MappedFile file = MappedFile::open(folder.write("a", "0123456789abcdef"));
  for (const auto& [offset, length] : {std::pair<int64_t, int64_t>{0, 17},
                                       {17, 0},
                                       {-1, 1},
                                       {1, -1},
                                       {16, 1},
                                       {1, kMax},
                                       {kMax, 1},
                                       {kMax, kMax},
                                       {std::numeric_limits<int64_t>::min(), 1}})
    expect_error(ErrorCode::kCorrupt, {file.path(), "document index"},
                 [&] { file.range(offset, length, "document index"); });
}

TEST(MappedFile, RefusesArraysThatOverflowOrAreMisaligned) {
  const TemporaryFolder folder;
  const MappedFile file = MappedFile::open(folder.write("a", std::string(32, '\1')));
  EXPECT_EQ(file.array<int64_t>(8, 3, "x")[2], 0x0101010101010101);
  expect_error(ErrorCode::kCorrupt, {"ids"}, [&] { file.array<int64_t>(8, 4, "ids"); });
  expect_error(ErrorCode::kCorrupt, {"ids"}, [&] { file.array<int64_t>(0, kMax / 4, "ids"); });
  expect_error(ErrorCode::kCorrupt, {"ids"}, [&] { file.array<int64_t>(0, -1, "ids"); });
  expect_error(ErrorCode::kCorrupt, {"multiple of 8"}, [&] { file.array<int64_t>(4, 1, "ids"); });
}

TEST(MappedFile, NoticesThatTheFileChanged) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a", "0123456789");
  const MappedFile file = MappedFile::open(path);
  file.check_unchanged();
  std::filesystem::resize_file(path, 4);
  expect_error(ErrorCode::kCorrupt, {path}, [&] { file.check_unchanged(); });
}

TEST(MappedFile, NamesAFileThatCannotBeOpened) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kStorage, {folder.path("none")},
               [&] { MappedFile::open(folder.path("none")); });
  expect_error(ErrorCode::kStorage, {"not a folder"}, [&] { MappedFile::open(folder.path("")); });
}

}  // namespace
}  // namespace longship
