// Which bytes of which file hold which part of which tensor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint_header.h"
#include "runtime/tensor.h"

namespace longship {

inline constexpr int64_t kChecksumBlockBytes = int64_t{4} << 20;

struct CheckpointFile {
  std::string name;  // inside the folder
  int64_t num_bytes = 0;
  std::vector<uint64_t> block_checksums;  // of kChecksumBlockBytes each, the last one shorter
};

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

// All that a manifest says.
struct CheckpointContent {
  CheckpointHeader header;
  std::vector<CheckpointFile> files;
  std::vector<CheckpointTensor> tensors;  // in the order of their names
};

// Checks everything that can be wrong without looking at the files: counts, ranges, overflow, names
// that leave the folder, slices outside their file, tensors covered twice or not at all. Returns
// one sentence about the first problem, empty when there is none. Trusts nothing.
std::string layout_problem(const CheckpointContent& content);

}  // namespace longship
