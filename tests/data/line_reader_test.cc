#include "data/line_reader.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::TemporaryFolder;

TEST(LineReader, GivesLinesWithNumberOffsetAndEnd) {
  const TemporaryFolder folder;
  LineReader reader(folder.write("a", "one\n\n three\r\nlast"));
  std::vector<std::string> found;
  Line line;
  while (reader.next(line))
    found.push_back(line.text + "|" + std::to_string(line.number) + "|" +
                    std::to_string(line.offset) + "|" + std::to_string(line.is_terminated));
  EXPECT_EQ(found,
            (std::vector<std::string>{"one|1|0|1", "|2|4|1", " three\r|3|5|1", "last|4|13|0"}));
  EXPECT_FALSE(reader.next(line));
}

TEST(LineReader, AnEmptyFileHasNoLineAndANewlineHasOne) {
  const TemporaryFolder folder;
  Line line;
  EXPECT_FALSE(LineReader(folder.write("empty", "")).next(line));
  LineReader reader(folder.write("newline", "\n"));
  EXPECT_TRUE(reader.next(line));
  EXPECT_EQ(line.text, "");
  EXPECT_FALSE(reader.next(line));
}

TEST(LineReader, JoinsLinesOverPieces) {
  const TemporaryFolder folder;
  // Around the 4 MiB pieces, and longer than two of them.
  const std::vector<size_t> lengths = {4194303, 1, 0, 4194302, 9000001, 7};
  std::string content;
  for (size_t i = 0; i < lengths.size(); ++i)
    content += std::string(lengths[i], static_cast<char>('a' + i)) + "\n";
  LineReader reader(folder.write("long", content));
  Line line;
  int64_t offset = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    ASSERT_TRUE(reader.next(line));
    EXPECT_TRUE(line.text == std::string(lengths[i], static_cast<char>('a' + i))) << "line " << i;
    EXPECT_EQ(line.offset, offset);
    offset += static_cast<int64_t>(lengths[i]) + 1;
  }
  EXPECT_FALSE(reader.next(line));
}

TEST(LineReader, NamesAFileThatBecameShorter) {
  const TemporaryFolder folder;
  const std::string path = folder.write("shrinks", std::string(6 << 20, 'x'));
  LineReader reader(path);
  std::filesystem::resize_file(path, 5 << 20);
  Line line;
  testing::expect_error(ErrorCode::kCorrupt, {path, "too early"}, [&] { reader.next(line); });
}

}  // namespace
}  // namespace longship
