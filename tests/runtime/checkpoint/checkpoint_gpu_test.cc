// Checkpoints and safetensors of tensors that lie on a GPU.
#include <gtest/gtest.h>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_store.h"
#include "runtime/checkpoint/checkpoint_writer.h"
#include "runtime/io/safetensors.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::bf16_values;
using testing::bitwise_equal;
using testing::on_host;

// One of more than one piece of 64 MiB, one that is a view with gaps, an empty one.
std::vector<NamedTensor> host_tensors() {
  Tensor big = Tensor::zeros(std::make_shared<Memory>(), {(17 << 20) + 3}, DType::kF32);
  for (int64_t i = 0; i < big.numel(); ++i) big.data<float>()[i] = static_cast<float>(i % 65537);
  return {{"big", big},
          {"half", bf16_values({5, 3}, 1).to(DType::kBF16)},
          {"view", bf16_values({40, 90}, 2).to(DType::kF32).transpose(0, 1)},
          {"empty", Tensor::zeros(std::make_shared<Memory>(), {3, 0}, DType::kF32)}};
}

std::vector<NamedTensor> on_gpu(const Context& gpu, const std::vector<NamedTensor>& tensors) {
  std::vector<NamedTensor> result;
  for (const auto& [name, tensor] : tensors) {
    const Tensor there = tensor.to(gpu.memory);
    result.push_back(
        {name, name == "view" ? there.transpose(0, 1).contiguous().transpose(0, 1) : there});
  }
  return result;
}

TEST(CheckpointOnGpu, IsThatOfTheSameTensorsOnTheHost) {
  const Context gpu = testing::poisoned_gpu();
  const testing::TemporaryFolder folder;
  const std::vector<NamedTensor> host = host_tensors();
  auto write = [&](const std::string& root, const std::vector<NamedTensor>& tensors) {
    std::filesystem::create_directories(folder.path(root));
    AtomicDirectory directory(std::filesystem::path(folder.path(root)) / checkpoint_name(7));
    const std::vector<std::string> records = {write_part(directory.temporary_path(), 0, tensors)};
    commit_checkpoint(directory, {.step = 7}, records);
    return Checkpoint::open(std::filesystem::path(folder.path(root)) / checkpoint_name(7));
  };
  const Checkpoint from_gpu = write("gpu", on_gpu(gpu, host)), from_host = write("host", host);
  from_gpu.verify();
  ASSERT_EQ(from_gpu.files().size(), 1u);
  EXPECT_EQ(from_gpu.files()[0].block_checksums, from_host.files()[0].block_checksums);
  for (const auto& [name, tensor] : host) {
    const Tensor back = gpu.empty(tensor.shape(), tensor.dtype());
    from_gpu.read(name, back);
    EXPECT_TRUE(bitwise_equal(on_host(back), tensor)) << name;
    if (tensor.rank() != 2) continue;
    const Tensor turned = gpu.empty({tensor.dim(1), tensor.dim(0)}, tensor.dtype());
    from_gpu.read(name, turned.transpose(0, 1));
    EXPECT_TRUE(bitwise_equal(on_host(turned.transpose(0, 1)), tensor)) << name;
  }
}

TEST(SafetensorsOnGpu, ConvertWhileTheyAreRead) {
  const Context gpu = testing::poisoned_gpu();
  const testing::TemporaryFolder folder;
  const Tensor values = bf16_values({37, 11}, 3);
  const std::vector<NamedTensor> tensors = {{"w", values.to(DType::kBF16).to(gpu.memory)}};
  write_safetensors(folder.path("w.safetensors"), tensors);
  const Tensor back = gpu.empty({37, 11}, DType::kF32);
  SafetensorsReader::open(folder.path("w.safetensors")).read("w", back, DTypeConversion::kAllow);
  EXPECT_TRUE(bitwise_equal(on_host(back), values.to(DType::kF32)));
}

}  // namespace
}  // namespace longship
