// Checkpoint: a committed folder `step_00001200/` opened for reading.
//
// The folder holds one safetensors file per writer and MANIFEST.pb (manifest.proto), which lists
// every tensor and file with its checksum and carries a checksum of its own. Tensors are found by
// name and global shape, so a checkpoint can be read by any number of ranks.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/checkpoint/checkpoint_header.h"
#include "runtime/tensor.h"

namespace longship {

struct CheckpointFile {
  std::string name;  // inside the folder
  int64_t num_bytes = 0;
  std::vector<uint64_t> block_checksums;  // of kChecksumBlockBytes each, the last one shorter
};

inline constexpr int64_t kChecksumBlockBytes = int64_t{4} << 20;

// A box of a tensor that lies contiguously in one file.
struct CheckpointSlice {
  Shape begin;   // of its first element in the tensor
  Shape extent;  // same rank; the whole shape when the tensor has one slice
  size_t file = 0;
  int64_t offset = 0;  // from the start of the file
  int64_t num_bytes = 0;
  uint64_t checksum = 0;
};

struct CheckpointTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;                          // global
  std::vector<CheckpointSlice> slices;  // cover the shape exactly once
};

// Damage throws Error(kCorrupt) naming the file and, where known, tensor and byte offset; a file
// system that refuses throws Error(kStorage).
class Checkpoint {
 public:
  // Checks the manifest (own checksum, every field, slices inside their files and covering their
  // tensors) and that all files have their size. A checkpoint of a newer schema throws
  // Error(kConfig).
  static Checkpoint open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  const CheckpointHeader& header() const { return header_; }
  const std::vector<CheckpointFile>& files() const { return files_; }
  // In the order of their names.
  const std::vector<CheckpointTensor>& tensors() const { return tensors_; }
  int64_t num_bytes() const;

  bool has(std::string_view name) const { return find(name) != nullptr; }
  const CheckpointTensor* find(std::string_view name) const;

  // Compares the checksum of every byte of every file. To share the work, reader `index` of
  // `count` takes the index-th part of all blocks.
  void verify(int64_t index = 0, int64_t count = 1) const;

  // Copies a tensor into `destination` (any strides) after comparing the checksum of what was
  // read; on damage `destination` may be half filled. Throws Error(kConfig) when the name is
  // missing or shape or dtype differ.
  void read(std::string_view name, const Tensor& destination) const;

 private:
  std::filesystem::path directory_;
  CheckpointHeader header_;
  std::vector<CheckpointFile> files_;
  std::vector<CheckpointTensor> tensors_;
};

}  // namespace longship
