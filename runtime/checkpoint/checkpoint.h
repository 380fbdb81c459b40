// Checkpoint: a committed folder `step_00001200/` opened for reading.
//
// The folder holds one safetensors file per writer and MANIFEST.pb (manifest.proto), which lists
// every tensor and file with its checksum and carries a checksum of its own. Tensors are found by
// name and global shape, so a checkpoint can be read by any number of ranks.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

#include "runtime/checkpoint/checkpoint_layout.h"

namespace longship {

// Damage throws Error(kCorrupt) naming the file and, where known, tensor and byte offset; a file
// system that refuses throws Error(kStorage).
class Checkpoint {
 public:
  // Checks the manifest (own checksum, every field, slices inside their files and covering their
  // tensors), that all files have their size, and that a folder named step_<n> holds step n. A
  // checkpoint of a newer schema throws Error(kConfig).
  static Checkpoint open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  const CheckpointHeader& header() const { return content_.header; }
  const std::vector<CheckpointFile>& files() const { return content_.files; }
  // In the order of their names.
  const std::vector<CheckpointTensor>& tensors() const { return content_.tensors; }

  bool has(std::string_view name) const { return find(name) != nullptr; }
  const CheckpointTensor* find(std::string_view name) const;

  // Compares the checksum of every byte of every file. To share the work, reader `index` of
  // `count` takes the index-th part of all blocks.
  void verify(int64_t index = 0, int64_t count = 1) const;

  // Copies a tensor into `destination` (any strides) after comparing the checksum of what was
  // read; on damage `destination` may be half filled. Throws Error(kConfig) when the name is
  // missing or shape or dtype differ.
  void read(std::string_view name, const Tensor& destination) const;
  // The same of a run of elements of the flattened tensor, which has this shape. Takes host memory
  // for one whole tensor; only slices with elements of the run are read.
  void read_run(std::string_view name, const Shape& shape, int64_t first_element,
                const Tensor& destination) const;

 private:
  // Fills `destination` where slices hold elements of [begin, end) of the flattened tensor.
  void read_slices(std::string_view name, const Tensor& destination, int64_t begin,
                   int64_t end) const;

  std::filesystem::path directory_;
  CheckpointContent content_;
};

}  // namespace longship
