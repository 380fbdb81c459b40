#include "runtime/checkpoint/checkpoint_store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/runtime/checkpoint/example_checkpoint.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_example;
namespace fs = std::filesystem;

std::vector<int64_t> steps_in(const fs::path& root) {
  std::vector<int64_t> steps;
  for (const CheckpointLocation& location : list_checkpoints(root)) steps.push_back(location.step);
  return steps;
}

// 0 when there is none.
int64_t newest(const fs::path& root) {
  const std::vector<CheckpointLocation> all = list_checkpoints(root);
  return all.empty() ? 0 : all[0].step;
}

void flip_a_byte_of_the_tensors(const fs::path& checkpoint) {
  std::fstream file(checkpoint / "part_00000.safetensors",
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-1, std::ios::end);
  const char last = static_cast<char>(file.peek());
  file.seekp(-1, std::ios::end);
  file.put(static_cast<char>(last ^ 1));
}

TEST(CheckpointStore, ListsCommittedCheckpointsNewestFirst) {
  const TemporaryFolder folder;
  EXPECT_TRUE(list_checkpoints(folder.path("none")).empty());
  // Ordered by number, not by text.
  for (const char* name : {"step_00000002", "step_99999999", "step_100000000", "step_00000010"})
    fs::create_directory(folder.path(name));
  for (const char* name :
       {"step_00000003.tmp-0123456789abcdef", "step_00000004.corrupt", "step_5", "step_-0000001",
        "step_0000000x", "step_", "other", "step_000000007", "step_99999999999999999999"})
    fs::create_directory(folder.path(name));
  folder.write("step_00000020", "a file");
  EXPECT_EQ(steps_in(folder.path("")), (std::vector<int64_t>{100000000, 99999999, 10, 2}));
  expect_error(ErrorCode::kStorage, {"step_00000020"},
               [&] { list_checkpoints(folder.path("step_00000020")); });
}

TEST(CheckpointStore, RemovesOnlyItsOwnOrphans) {
  const TemporaryFolder folder;
  write_example(folder.path(""), 1);
  folder.write("step_00000002.tmp-0123456789abcdef/part_00000.safetensors", "half");
  folder.write("other.tmp-0123456789abcdef/x", "not ours");
  folder.write("step_00000003.corrupt/x", "kept for examination");
  const auto deleted = remove_orphans(folder.path(""));
  ASSERT_EQ(deleted.size(), 1u);
  EXPECT_EQ(deleted[0].filename(), "step_00000002.tmp-0123456789abcdef");
  EXPECT_FALSE(fs::exists(deleted[0]));
  EXPECT_TRUE(fs::exists(folder.path("other.tmp-0123456789abcdef/x")));
  EXPECT_TRUE(fs::exists(folder.path("step_00000003.corrupt/x")));
  EXPECT_TRUE(testing::holds_example(folder.path("step_00000001"), 1));
  EXPECT_TRUE(remove_orphans(folder.path("none")).empty());
}

TEST(CheckpointStore, PruneKeepsTheNewest) {
  const TemporaryFolder folder;
  for (int64_t step : {1, 2, 3, 4}) write_example(folder.path(""), step);
  EXPECT_TRUE(prune(folder.path(""), 4).empty());
  const auto deleted = prune(folder.path(""), 2);
  ASSERT_EQ(deleted.size(), 2u);
  EXPECT_EQ(deleted[0].filename(), "step_00000002");
  EXPECT_EQ(steps_in(folder.path("")), (std::vector<int64_t>{4, 3}));
  EXPECT_EQ(folder.num_entries(), 2 * 5);
  EXPECT_TRUE(prune(folder.path("none"), 1).empty());
}

TEST(CheckpointStore, PruneDoesNotCountIncompleteCheckpoints) {
  const TemporaryFolder folder;
  for (int64_t step : {1, 2, 3, 4}) write_example(folder.path(""), step);
  fs::remove(folder.path("step_00000004/MANIFEST.pb"));
  prune(folder.path(""), 2);
  EXPECT_EQ(steps_in(folder.path("")), (std::vector<int64_t>{4, 3, 2}));
}

TEST(CheckpointStore, PruneNeverDeletesTheLastGoodOne) {
  const TemporaryFolder folder;
  for (int64_t step : {1, 2, 3}) write_example(folder.path(""), step);
  // Damage that only a full verification finds, in all that would be kept.
  flip_a_byte_of_the_tensors(folder.path("step_00000003"));
  EXPECT_TRUE(prune(folder.path(""), 1).empty());
  flip_a_byte_of_the_tensors(folder.path("step_00000002"));
  EXPECT_TRUE(prune(folder.path(""), 2).empty());
  EXPECT_EQ(steps_in(folder.path("")), (std::vector<int64_t>{3, 2, 1}));
  write_example(folder.path(""), 4);
  EXPECT_EQ(prune(folder.path(""), 1).size(), 3u);
  EXPECT_EQ(steps_in(folder.path("")), (std::vector<int64_t>{4}));
}

// A process that does nothing but save and prune is killed at arbitrary moments; whatever it left
// is either a complete checkpoint or an orphan.
TEST(CheckpointStore, HoldsOnlyWholeCheckpointsAfterKills) {
  const TemporaryFolder folder;
  const fs::path root = folder.path("c");
  int64_t step = 1;
  for (int kill_round = 0; kill_round < 15; ++kill_round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        for (int64_t next = step;; ++next) {
          write_example(root, next);
          prune(root, 2);
        }
      } catch (...) {
        ::_exit(1);
      }
    }
    // Some progress first, however slow the disk; then any moment of the work that follows.
    int status = 0;
    while (newest(root) < step && ::waitpid(child, &status, WNOHANG) == 0) ::usleep(500);
    ::usleep(static_cast<useconds_t>(1'337 * kill_round));
    ::kill(child, SIGKILL);
    ASSERT_EQ(::waitpid(child, &status, 0), child) << "the writer ended by itself";
    ASSERT_TRUE(WIFSIGNALED(status)) << "the writer failed";
    remove_orphans(root);
    const std::vector<CheckpointLocation> left = list_checkpoints(root);
    for (const CheckpointLocation& one : left)
      EXPECT_TRUE(testing::holds_example(one.directory, one.step)) << one.directory;
    ASSERT_FALSE(left.empty());
    EXPECT_GE(left[0].step, step);
    step = left[0].step + 1;
    for (const auto& entry : fs::directory_iterator(root))
      EXPECT_TRUE(step_of_name(entry.path())) << entry.path();
  }
}

}  // namespace
}  // namespace longship
