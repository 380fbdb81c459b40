#include "runtime/io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "runtime/error.h"
#include "tests/support/expect_error.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::FileSizeLimit;
using testing::TemporaryFolder;

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const TemporaryFolder folder;
  {
    AtomicFile file(folder.path("a"));
    file.write("hello ");
    file.write("world");
    EXPECT_EQ(file.size(), 11);
    EXPECT_FALSE(std::filesystem::exists(folder.path("a")));
    EXPECT_EQ(folder.num_entries(), 1);
    file.commit();
  }
  EXPECT_EQ(folder.read("a"), "hello world");
  EXPECT_EQ(folder.num_entries(), 1);
}

TEST(AtomicFile, LeavesNothingAndChangesNothingWithoutCommit) {
  const TemporaryFolder folder;
  folder.write("a", "old");
  { AtomicFile(folder.path("a")).write("new"); }
  EXPECT_EQ(folder.read("a"), "old");
  EXPECT_EQ(folder.num_entries(), 1);
}

TEST(AtomicFile, ReplacesAnExistingFileWhole) {
  const TemporaryFolder folder;
  folder.write("a", "something longer");
  write_file_atomically(folder.path("a"), "new");
  EXPECT_EQ(folder.read("a"), "new");
}

TEST(AtomicFile, OverwritesWhatWasWritten) {
  const TemporaryFolder folder;
  AtomicFile file(folder.path("a"));
  file.write("....body");
  file.write_at(0, bytes_of("HEAD"));
  file.write("!");
  file.commit();
  EXPECT_EQ(folder.read("a"), "HEADbody!");
}

TEST(AtomicFile, LeavesNothingWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  folder.write("a", "old");
  const std::string large(1 << 20, 'x');
  {
    const FileSizeLimit limit(1 << 16);
    expect_error(ErrorCode::kStorage, {folder.path("a"), "ulimit -f"},
                 [&] { write_file_atomically(folder.path("a"), large); });
  }
  EXPECT_EQ(folder.read("a"), "old");
  EXPECT_EQ(folder.num_entries(), 1);
  // The device that is always full: the error of a disk without space.
  expect_error(ErrorCode::kStorage, {"/dev/full", "No space left", "free space"}, [&] {
    const FileDescriptor full = FileDescriptor::open_for_appending("/dev/full");
    full.write(bytes_of("x"));
  });
}

TEST(AtomicFile, NamesThePathThatCannotBeWritten) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kStorage, {folder.path("no/a"), "No such file"},
               [&] { AtomicFile(folder.path("no/a")); });
  folder.write("f", "");
  expect_error(ErrorCode::kStorage, {folder.path("f/a"), "Not a directory"},
               [&] { AtomicFile(folder.path("f/a")); });
  std::filesystem::create_directory(folder.path("d"));
  expect_error(ErrorCode::kStorage, {folder.path("d"), "name a file"},
               [&] { write_file_atomically(folder.path("d"), "x"); });
  EXPECT_EQ(folder.num_entries(), 2);
}

TEST(TemporaryName, IsNewAtEveryCallAndRecognised) {
  const std::filesystem::path a = temporary_name("x/data.bin"), b = temporary_name("x/data.bin");
  EXPECT_NE(a, b);
  EXPECT_EQ(a.parent_path(), "x");
  EXPECT_TRUE(is_temporary_name(a));
  EXPECT_FALSE(is_temporary_name("x/data.bin"));
  EXPECT_FALSE(is_temporary_name("x/data.tmp-0123456789abcdeg"));
  EXPECT_FALSE(is_temporary_name("x/data.tmp-0123"));
  EXPECT_FALSE(is_temporary_name(".tmp-0123456789abcdef"));
}

TEST(FileDescriptor, RefusesWhatIsNotARegularFile) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kStorage, {folder.path("none"), "check the spelling"},
               [&] { FileDescriptor::open_for_reading(folder.path("none")); });
  expect_error(ErrorCode::kStorage, {"not a folder"},
               [&] { FileDescriptor::open_for_reading(folder.path("")); });
  const std::string pipe = folder.path("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error(ErrorCode::kStorage, {pipe, "a regular file"},
               [&] { FileDescriptor::open_for_reading(pipe); });
  std::filesystem::create_symlink(folder.path("loop"), folder.path("loop"));
  expect_error(ErrorCode::kStorage, {"loop", "symbolic links"},
               [&] { FileDescriptor::open_for_reading(folder.path("loop")); });
}

TEST(FileDescriptor, SaysThatAFileEndsTooEarly) {
  const TemporaryFolder folder;
  const FileDescriptor file = FileDescriptor::open_for_reading(folder.write("a", "12345"));
  std::string four(4, ' ');
  file.read_at(1, std::as_writable_bytes(std::span(four)));
  EXPECT_EQ(four, "2345");
  expect_error(ErrorCode::kCorrupt, {folder.path("a"), "4 bytes at offset 2", "3 bytes"},
               [&] { file.read_at(2, std::as_writable_bytes(std::span(four))); });
}

}  // namespace
}  // namespace longship
