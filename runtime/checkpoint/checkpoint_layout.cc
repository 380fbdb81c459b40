#include "runtime/checkpoint/checkpoint_layout.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

namespace longship {
namespace {

std::optional<int64_t> checked_product(const Shape& shape, int64_t factor) {
  for (int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(factor, extent, &factor)) return std::nullopt;
  return factor;
}

std::string file_problem(const CheckpointFile& file) {
  const bool plain = !file.name.empty() && file.name != "." && file.name != ".." &&
                     file.name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
  if (!plain) return "a part has no plain file name";
  if (file.num_bytes < 0) return fmt::format("{} has a negative size", file.name);
  const uint64_t full_blocks = static_cast<uint64_t>(file.num_bytes / kChecksumBlockBytes);
  const uint64_t num_blocks = full_blocks + (file.num_bytes % kChecksumBlockBytes != 0);
  if (file.block_checksums.size() != num_blocks)
    return fmt::format("{} has {} block checksums instead of {}", file.name,
                       file.block_checksums.size(), num_blocks);
  return {};
}

std::string slice_problem(const CheckpointTensor& tensor, const CheckpointSlice& slice,
                          const std::vector<CheckpointFile>& files) {
  const size_t rank = tensor.shape.size();
  if (slice.begin.size() != rank || slice.extent.size() != rank) return "has another rank";
  for (size_t dim = 0; dim < rank; ++dim)
    if (slice.begin[dim] < 0 || slice.extent[dim] < 0 || slice.begin[dim] > tensor.shape[dim] ||
        slice.extent[dim] > tensor.shape[dim] - slice.begin[dim])
      return "leaves the shape";
  if (checked_product(slice.extent, dtype_size(tensor.dtype)) != slice.num_bytes)
    return "has a length that does not match its extents";
  if (slice.file >= files.size()) return "is in a file that is not listed";
  const int64_t file_bytes = files[slice.file].num_bytes;
  if (slice.offset < 0 || slice.offset > file_bytes || slice.num_bytes > file_bytes - slice.offset)
    return fmt::format("lies outside {}", files[slice.file].name);
  return {};
}

bool overlap(const CheckpointSlice& a, const CheckpointSlice& b) {
  for (size_t dim = 0; dim < a.begin.size(); ++dim)
    if (a.begin[dim] >= b.begin[dim] + b.extent[dim] ||
        b.begin[dim] >= a.begin[dim] + a.extent[dim])
      return false;
  return a.num_bytes > 0 && b.num_bytes > 0;
}

// Slices are valid one by one here. Walks them along the first dimension.
bool any_overlap(const std::vector<CheckpointSlice>& slices) {
  if (slices.size() < 2) return false;
  if (slices[0].begin.empty()) return true;
  std::vector<size_t> order(slices.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return slices[a].begin < slices[b].begin; });
  for (size_t i = 0; i < order.size(); ++i) {
    const CheckpointSlice& slice = slices[order[i]];
    const int64_t end = slice.begin[0] + slice.extent[0];
    for (size_t j = i + 1; j < order.size() && slices[order[j]].begin[0] < end; ++j)
      if (overlap(slice, slices[order[j]])) return true;
  }
  return false;
}

std::string tensor_problem(const CheckpointTensor& tensor,
                           const std::vector<CheckpointFile>& files) {
  const std::optional<int64_t> num_bytes = checked_product(tensor.shape, dtype_size(tensor.dtype));
  if (!num_bytes) return fmt::format("tensor {} has an impossible shape", tensor.name);
  int64_t covered_bytes = 0;
  for (const CheckpointSlice& slice : tensor.slices) {
    const std::string problem = slice_problem(tensor, slice, files);
    if (!problem.empty()) return fmt::format("a slice of tensor {} {}", tensor.name, problem);
    if (slice.num_bytes > *num_bytes - covered_bytes)
      return fmt::format("slices of tensor {} overlap", tensor.name);
    covered_bytes += slice.num_bytes;
  }
  if (any_overlap(tensor.slices)) return fmt::format("slices of tensor {} overlap", tensor.name);
  if (covered_bytes != *num_bytes)
    return fmt::format("{} of {} bytes of tensor {} are missing", *num_bytes - covered_bytes,
                       *num_bytes, tensor.name);
  return {};
}

}  // namespace

std::string layout_problem(const CheckpointContent& content) {
  if (content.header.step < 0) return "the step is negative";
  if (content.header.dp < 1 || content.header.sp < 1) return "the mesh has an empty axis";
  std::set<std::string_view> file_names;
  for (const CheckpointFile& file : content.files) {
    std::string problem = file_problem(file);
    if (!problem.empty()) return problem;
    if (!file_names.insert(file.name).second) return fmt::format("{} is listed twice", file.name);
  }
  for (size_t i = 0; i < content.tensors.size(); ++i) {
    if (i > 0 && content.tensors[i - 1].name >= content.tensors[i].name)
      return fmt::format("tensor {} is listed twice or out of order", content.tensors[i].name);
    std::string problem = tensor_problem(content.tensors[i], content.files);
    if (!problem.empty()) return problem;
  }
  return {};
}

}  // namespace longship
