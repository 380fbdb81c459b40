#include "runtime/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include "runtime/io/safetensors.h"
#include "tests/runtime/checkpoint/example_checkpoint.h"
#include "tests/support/expect_error.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::example_header;
using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_example;

TEST(Checkpoint, ReturnsTensorsAndStateBitForBit) {
  const TemporaryFolder folder;
  const auto path = write_example(folder.path("run/checkpoints"), 1200);
  EXPECT_EQ(path.filename(), "step_00001200");
  EXPECT_TRUE(testing::holds_example(path, 1200));
  const Checkpoint checkpoint = Checkpoint::open(path);
  const CheckpointHeader expected = example_header(1200), &found = checkpoint.header();
  EXPECT_EQ(found.step, 1200);
  EXPECT_EQ(found.config_text, expected.config_text);
  EXPECT_EQ(found.integers, expected.integers);
  EXPECT_EQ(found.strings, expected.strings);
  EXPECT_EQ(found.dp, 1);
  EXPECT_EQ(found.sp, 3);
  EXPECT_EQ(found.versions, expected.versions);
  EXPECT_TRUE(checkpoint.has("half"));
  EXPECT_FALSE(checkpoint.has("hal"));
  EXPECT_EQ(checkpoint.find("shared")->slices.size(), 3u);
  EXPECT_EQ(checkpoint.find("shared")->shape, (Shape{7, 6, 2}));
}

TEST(Checkpoint, FillsStridedTensors) {
  const TemporaryFolder folder;
  const Checkpoint checkpoint = Checkpoint::open(write_example(folder.path(""), 3));
  Context ctx;
  for (const auto& [name, tensor] : testing::example_tensors(ctx, 3)) {
    if (tensor.rank() < 2) continue;
    Shape swapped = tensor.shape();
    std::swap(swapped[0], swapped[1]);
    const Tensor target = ctx.empty(swapped, tensor.dtype()).transpose(0, 1);
    checkpoint.read(name, target);
    EXPECT_TRUE(testing::bitwise_equal(target, tensor)) << name;
  }
}

TEST(Checkpoint, HasTheSameBytesForTheSameContent) {
  const TemporaryFolder folder;
  write_example(folder.path("a"), 7);
  write_example(folder.path("b"), 7);
  for (const char* name : {"MANIFEST.pb", "part_00000.safetensors", "part_00001.safetensors",
                           "part_00002.safetensors"})
    EXPECT_EQ(folder.read(std::string("a/step_00000007/") + name),
              folder.read(std::string("b/step_00000007/") + name))
        << name;
}

TEST(Checkpoint, ConsistsOfSafetensorsFiles) {
  const TemporaryFolder folder;
  const auto path = write_example(folder.path(""), 5);
  const SafetensorsReader part = SafetensorsReader::open(path / "part_00002.safetensors");
  EXPECT_EQ(part.find("view")->shape, (Shape{9, 4}));
  EXPECT_EQ(part.find("shared[0, 2, 0]")->shape, (Shape{3, 4, 2}));
}

TEST(Checkpoint, NamesTensorsThatDoNotFit) {
  const TemporaryFolder folder;
  const Checkpoint checkpoint = Checkpoint::open(write_example(folder.path(""), 5));
  Context ctx;
  expect_error(ErrorCode::kConfig, {"step_00000005", "\"lm_head\"", "no such tensor"},
               [&] { checkpoint.read("lm_head", ctx.empty({17}, DType::kF32)); });
  expect_error(ErrorCode::kConfig, {"\"bias\"", "fp32 [16]", "fp32 [17]"},
               [&] { checkpoint.read("bias", ctx.empty({16}, DType::kF32)); });
  expect_error(ErrorCode::kConfig, {"\"bias\"", "bf16 [17]", "fp32 [17]"},
               [&] { checkpoint.read("bias", ctx.empty({17}, DType::kBF16)); });
}

TEST(Checkpoint, AcceptsAWriterWithoutTensors) {
  const TemporaryFolder folder;
  AtomicDirectory directory(folder.path("step_00000001"));
  const std::vector<std::string> records = {write_part(directory.temporary_path(), 0, {})};
  commit_checkpoint(directory, {.step = 1}, records);
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  checkpoint.verify();
  EXPECT_TRUE(checkpoint.tensors().empty());
}

TEST(Checkpoint, ReplacesOneOfTheSameStep) {
  const TemporaryFolder folder;
  const auto path = write_example(folder.path(""), 5);
  std::filesystem::resize_file(path / "part_00001.safetensors", 3);
  write_example(folder.path(""), 5);
  EXPECT_TRUE(testing::holds_example(path, 5));
  EXPECT_EQ(folder.num_entries(), 5);
}

TEST(CheckpointWriter, LeavesNothingWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  const auto before = write_example(folder.path("c"), 1);
  const int64_t num_entries = folder.num_entries();
  // Too small for a part, and large enough for the parts but not for the manifest.
  for (rlim_t limit : {100, 1000}) {
    expect_error(ErrorCode::kStorage, {"step_00000002.tmp-"}, [&] {
      AtomicDirectory directory(folder.path("c/step_00000002"));
      const testing::FileSizeLimit full(limit);
      const auto records = testing::write_example_parts(directory.temporary_path(), 2);
      CheckpointHeader header = example_header(2);
      header.config_text.assign(2000, 'x');
      commit_checkpoint(directory, header, records);
    });
    EXPECT_EQ(folder.num_entries(), num_entries);
  }
  EXPECT_TRUE(testing::holds_example(before, 1));
}

TEST(CheckpointWriter, RefusesPartsThatDoNotMakeAWhole) {
  const TemporaryFolder folder;
  AtomicDirectory directory(folder.path("step_00000002"));
  auto records = testing::write_example_parts(directory.temporary_path(), 2);
  auto commit = [&](const std::vector<std::string>& some) {
    commit_checkpoint(directory, example_header(2), some);
  };
  expect_error(ErrorCode::kInternal, {"part 1"}, [&] { commit({records[0], records[2]}); });
  expect_error(ErrorCode::kInternal, {"part 1"}, [&] { commit({records[0], records[0]}); });
  expect_error(ErrorCode::kInternal, {"tensor shared are missing"}, [&] {
    commit({records[0], records[1]});
  });
  expect_error(ErrorCode::kInternal, {"part record"}, [&] { commit({"nonsense"}); });
  expect_error(ErrorCode::kInternal, {"step 3"},
               [&] { commit_checkpoint(directory, example_header(3), records); });
  Context ctx;
  const std::vector<NamedTensor> other = {{"bias", ctx.zeros({17}, DType::kF64)}};
  records.push_back(write_part(directory.temporary_path(), 3, other));
  expect_error(ErrorCode::kInternal, {"bias", "fp32 [17]", "fp64 [17]"}, [&] { commit(records); });
  EXPECT_FALSE(std::filesystem::exists(directory.path()));
}

TEST(CheckpointWriter, SaysWhenAPartIsNotOnASharedFileSystem) {
  const TemporaryFolder folder;
  AtomicDirectory directory(folder.path("step_00000002"));
  const auto records = testing::write_example_parts(directory.temporary_path(), 2);
  std::filesystem::remove(directory.temporary_path() / "part_00001.safetensors");
  expect_error(ErrorCode::kStorage, {"part_00001.safetensors", "all ranks share"},
               [&] { commit_checkpoint(directory, example_header(2), records); });
}

TEST(CheckpointWriter, RefusesTextThatCouldNotBeReadBack) {
  const TemporaryFolder folder;
  AtomicDirectory directory(folder.path("step_00000002"));
  const auto records = testing::write_example_parts(directory.temporary_path(), 2);
  CheckpointHeader header = example_header(2);
  header.config_text = "\xff";
  EXPECT_THROW(commit_checkpoint(directory, header, records), Error);
  EXPECT_FALSE(std::filesystem::exists(directory.path()));
}

}  // namespace
}  // namespace longship
