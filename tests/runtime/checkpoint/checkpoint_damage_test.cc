// Damage of every kind is found, and the message names the file, the tensor and the place.

#include <gtest/gtest.h>

#include "tests/runtime/checkpoint/example_checkpoint.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::TemporaryFolder;
using testing::write_example;
namespace fs = std::filesystem;

const std::vector<std::string> kFiles = {"MANIFEST.pb", "part_00000.safetensors",
                                         "part_00001.safetensors", "part_00002.safetensors"};

// What a careful reader does.
void open_and_verify(const fs::path& path) {
  Checkpoint::open(path).verify();
}

// The example, and each file of it as it was.
struct Damage {
  TemporaryFolder folder;
  std::string name = checkpoint_name(4);
  fs::path path = write_example(folder.path(""), 4);

  std::string original(const std::string& file) const { return folder.read(name + "/" + file); }
  void put(const std::string& file, const std::string& content) const {
    folder.write(name + "/" + file, content);
  }
  void expect_found(const std::string& file) const {
    expect_error(ErrorCode::kCorrupt, {file, name}, [&] { open_and_verify(path); });
  }
};

TEST(CheckpointDamage, OfAnyBitOfTheManifestIsFound) {
  const Damage damage;
  const std::string original = damage.original("MANIFEST.pb");
  for (size_t at = 0; at < original.size(); ++at) {
    std::string changed = original;
    changed[at] = static_cast<char>(changed[at] ^ (1 << (at % 8)));
    damage.put("MANIFEST.pb", changed);
    damage.expect_found("MANIFEST.pb");
  }
  damage.put("MANIFEST.pb", original);
  open_and_verify(damage.path);
}

TEST(CheckpointDamage, OfAnyBitOfAPartIsFound) {
  const Damage damage;
  for (size_t f = 1; f < kFiles.size(); ++f) {
    const std::string original = damage.original(kFiles[f]);
    for (size_t at = 0; at < original.size(); at += 3) {
      std::string changed = original;
      changed[at] = static_cast<char>(changed[at] ^ (1 << (at % 8)));
      damage.put(kFiles[f], changed);
      damage.expect_found(kFiles[f]);
    }
    damage.put(kFiles[f], original);
  }
  open_and_verify(damage.path);
}

TEST(CheckpointDamage, OfLengthIsFound) {
  const Damage damage;
  for (const std::string& file : kFiles) {
    const std::string original = damage.original(file);
    for (const std::string& changed :
         {std::string(), original.substr(0, original.size() / 2),
          original.substr(0, original.size() - 1), original + '\0', original + original}) {
      damage.put(file, changed);
      damage.expect_found(file);
    }
    damage.put(file, original);
  }
  open_and_verify(damage.path);
}

TEST(CheckpointDamage, OfMissingOrForeignFilesIsFound) {
  const Damage damage;
  for (const std::string& file : kFiles) {
    const std::string original = damage.original(file);
    fs::remove(damage.path / file);
    damage.expect_found(file);
    fs::create_directory(damage.path / file);
    damage.expect_found(file);
    fs::remove(damage.path / file);
    fs::create_symlink(file, damage.path / file);  // to itself
    damage.expect_found(file);
    fs::remove(damage.path / file);
    damage.put(file, original);
  }
  open_and_verify(damage.path);
}

TEST(CheckpointDamage, OfSwappedPartsIsFound) {
  const TemporaryFolder folder;
  Context ctx;
  AtomicDirectory directory(folder.path("step_00000001"));
  // Two parts of the same size.
  std::vector<std::string> records;
  for (int64_t part : {0, 1}) {
    const std::vector<NamedTensor> tensors = {
        {fmt::format("w{}", part), testing::random_tensor(ctx, {8}, static_cast<uint64_t>(part))}};
    records.push_back(write_part(directory.temporary_path(), part, tensors));
  }
  commit_checkpoint(directory, {.step = 1}, records);
  const fs::path a = directory.path() / "part_00000.safetensors",
                 b = directory.path() / "part_00001.safetensors", c = directory.path() / "c";
  ASSERT_EQ(fs::file_size(a), fs::file_size(b));
  fs::rename(a, c);
  fs::rename(b, a);
  fs::rename(c, b);
  expect_error(ErrorCode::kCorrupt, {"part_00000"}, [&] { open_and_verify(directory.path()); });
  expect_error(ErrorCode::kCorrupt, {"part_00001", "w1"},
               [&] { Checkpoint::open(directory.path()).read("w1", ctx.empty({8}, DType::kF64)); });
}

TEST(CheckpointDamage, OfSwappedCheckpointsIsFound) {
  const TemporaryFolder folder;
  const fs::path one = write_example(folder.path(""), 1), two = write_example(folder.path(""), 2);
  fs::rename(one, folder.path("x"));
  fs::rename(two, one);
  fs::rename(folder.path("x"), two);
  expect_error(ErrorCode::kCorrupt, {"step_00000001", "step 2"}, [&] { Checkpoint::open(one); });
  // Under a name that states no step it is fine.
  fs::rename(two, folder.path("best"));
  EXPECT_TRUE(testing::holds_example(folder.path("best"), 1));
}

TEST(CheckpointDamage, OfOneTensorLeavesTheOthersReadable) {
  const Damage damage;
  const Checkpoint checkpoint = Checkpoint::open(damage.path);
  const CheckpointSlice& slice = checkpoint.find("half")->slices[0];
  const std::string file = checkpoint.files()[slice.file].name;
  std::string changed = damage.original(file);
  changed[static_cast<size_t>(slice.offset)] ^= 1;
  damage.put(file, changed);
  Context ctx;
  for (const auto& [name, tensor] : testing::example_tensors(ctx, 4)) {
    const Tensor copy = ctx.empty(tensor.shape(), tensor.dtype());
    if (name == "half")
      expect_error(ErrorCode::kCorrupt,
                   {file, "tensor half", fmt::format("between offsets {}", slice.offset)},
                   [&] { checkpoint.read("half", copy); });
    else
      checkpoint.read(name, copy);
  }
}

TEST(CheckpointDamage, IsLocatedToABlockAndFoundByExactlyOneOfManyReaders) {
  const TemporaryFolder folder;
  Context ctx;
  AtomicDirectory directory(folder.path("step_00000001"));
  const std::vector<NamedTensor> tensors = {{"a", ctx.zeros({1 << 20}, DType::kF32)},
                                            {"b", ctx.zeros({5 << 18}, DType::kF64)},
                                            {"c", ctx.zeros({7}, DType::kU8)}};
  const std::vector<std::string> records = {write_part(directory.temporary_path(), 0, tensors)};
  commit_checkpoint(directory, {.step = 1}, records);
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  ASSERT_EQ(checkpoint.files()[0].block_checksums.size(), 4u);
  std::fstream file(directory.path() / "part_00000.safetensors",
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(2 * kChecksumBlockBytes + 17);
  file.put('\1');
  file.close();
  expect_error(ErrorCode::kCorrupt, {"between offsets 8388608 and 12582912", "tensor a and 1 more"},
               [&] { checkpoint.verify(); });
  for (int64_t count : {1, 2, 3, 4, 9}) {
    int64_t num_found = 0;
    for (int64_t index = 0; index < count; ++index) try {
        checkpoint.verify(index, count);
      } catch (const Error&) {
        ++num_found;
      }
    EXPECT_EQ(num_found, 1) << count << " readers";
  }
}

TEST(CheckpointDamage, IsNotConfusedWithAMissingFolder) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kStorage, {"step_00000009", "No such file"},
               [&] { Checkpoint::open(folder.path("step_00000009")); });
  expect_error(ErrorCode::kStorage, {"Not a directory"},
               [&] { Checkpoint::open(folder.write("file", "")); });
}

}  // namespace
}  // namespace longship
