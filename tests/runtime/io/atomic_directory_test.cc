#include "runtime/io/atomic_directory.h"

#include <gtest/gtest.h>

#include <fstream>

#include "runtime/io/atomic_file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;

void put(const std::filesystem::path& path, const std::string& content) {
  std::ofstream(path) << content;
}

TEST(AtomicDirectory, AppearsWithEverythingInIt) {
  const TemporaryFolder folder;
  AtomicDirectory directory(folder.path("parent/out"));
  put(directory.temporary_path() / "a", "1");
  std::filesystem::create_directory(directory.temporary_path() / "sub");
  put(directory.temporary_path() / "sub/b", "2");
  EXPECT_FALSE(std::filesystem::exists(folder.path("parent/out")));
  EXPECT_TRUE(is_temporary_name(directory.temporary_path()));
  directory.commit();
  EXPECT_EQ(folder.read("parent/out/a"), "1");
  EXPECT_EQ(folder.read("parent/out/sub/b"), "2");
  EXPECT_EQ(folder.num_entries(), 5);
}

TEST(AtomicDirectory, LeavesNothingWithoutCommit) {
  const TemporaryFolder folder;
  {
    const AtomicDirectory directory(folder.path("out"));
    put(directory.temporary_path() / "a", "1");
  }
  EXPECT_EQ(folder.num_entries(), 0);
}

TEST(AtomicDirectory, RefusesToOverwriteUnlessAsked) {
  const TemporaryFolder folder;
  folder.write("out/old", "old");
  {
    AtomicDirectory directory(folder.path("out"));
    put(directory.temporary_path() / "new", "new");
    expect_error(ErrorCode::kStorage, {folder.path("out"), "exists already"},
                 [&] { directory.commit(); });
  }
  EXPECT_EQ(folder.read("out/old"), "old");
  EXPECT_EQ(folder.num_entries(), 2);
  AtomicDirectory directory(folder.path("out"));
  put(directory.temporary_path() / "new", "new");
  directory.commit(IfExists::kReplace);
  EXPECT_EQ(folder.read("out/new"), "new");
  EXPECT_EQ(folder.num_entries(), 2);
}

TEST(AtomicDirectory, AcceptsATrailingSlash) {
  const TemporaryFolder folder;
  AtomicDirectory directory(folder.path("out/"));
  EXPECT_EQ(directory.path(), folder.path("out"));
  directory.commit();
  EXPECT_TRUE(std::filesystem::is_directory(folder.path("out")));
}

TEST(AtomicDirectory, NamesThePathThatCannotBeCreated) {
  const TemporaryFolder folder;
  folder.write("file", "");
  expect_error(ErrorCode::kStorage, {folder.path("file/out"), "Not a directory"},
               [&] { AtomicDirectory(folder.path("file/out")); });
}

TEST(RemoveDirectoryAtomically, RemovesTheWholeTree) {
  const TemporaryFolder folder;
  folder.write("out/sub/a", "1");
  remove_directory_atomically(folder.path("out"));
  EXPECT_EQ(folder.num_entries(), 0);
  expect_error(ErrorCode::kStorage, {folder.path("out")},
               [&] { remove_directory_atomically(folder.path("out")); });
}

}  // namespace
}  // namespace longship
