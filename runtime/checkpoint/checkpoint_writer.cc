#include "runtime/checkpoint/checkpoint_writer.h"

#include <algorithm>
#include <map>
#include <system_error>

#include "runtime/checkpoint/checkpoint_store.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/checksum.h"
#include "runtime/io/safetensors.h"
#include "runtime/io/tensor_bytes.h"

namespace longship {
namespace {

// Checksums of consecutive blocks of a stream of bytes.
class BlockChecksums {
 public:
  void update(std::span<const std::byte> bytes) {
    num_bytes_ += static_cast<int64_t>(bytes.size());
    while (!bytes.empty()) {
      const size_t taken =
          std::min(bytes.size(), static_cast<size_t>(kChecksumBlockBytes) - in_block_);
      block_.update(bytes.first(taken));
      in_block_ += taken;
      bytes = bytes.subspan(taken);
      if (in_block_ == static_cast<size_t>(kChecksumBlockBytes)) close_block();
    }
  }

  CheckpointFile finish(std::string name) {
    if (in_block_ > 0) close_block();
    return {std::move(name), num_bytes_, std::move(values_)};
  }

 private:
  void close_block() {
    values_.push_back(block_.value());
    block_ = Checksum();
    in_block_ = 0;
  }

  Checksum block_;
  size_t in_block_ = 0;
  int64_t num_bytes_ = 0;
  std::vector<uint64_t> values_;
};

CheckpointTensor describe(const NamedSlice& one) {
  const auto& [name, tensor] = one.slice;
  Checksum sum;
  read_tensor_bytes(tensor, [&](std::span<const std::byte> bytes) { sum.update(bytes); });
  CheckpointSlice slice = {.begin = one.begin, .extent = tensor.shape()};
  slice.num_bytes = tensor.num_bytes();
  slice.checksum = sum.value();
  return {name, tensor.dtype(), one.global_shape, {std::move(slice)}};
}

// Adds what one part holds to the tensors of all parts.
void merge_part(const PartContent& part, size_t file,
                std::map<std::string, CheckpointTensor>& tensors) {
  for (const CheckpointTensor& from : part.tensors) {
    CheckpointTensor& to =
        tensors.try_emplace(from.name, CheckpointTensor{from.name, from.dtype, from.shape, {}})
            .first->second;
    LONGSHIP_CHECK(to.dtype == from.dtype && to.shape == from.shape,
                   "tensor {} is {} {} in one part, {} {} in another", from.name,
                   dtype_name(to.dtype), shape_string(to.shape), dtype_name(from.dtype),
                   shape_string(from.shape));
    for (CheckpointSlice slice : from.slices) {
      slice.file = file;
      to.slices.push_back(std::move(slice));
    }
  }
}

void check_part_is_visible(const std::filesystem::path& directory, const CheckpointFile& file) {
  std::error_code error;
  const auto size = std::filesystem::file_size(directory / file.name, error);
  if (error || static_cast<int64_t>(size) != file.num_bytes)
    throw Error(ErrorCode::kStorage,
                {.what = fmt::format("{} is not complete", (directory / file.name).string()),
                 .expected = fmt::format("{} bytes, as its writer reported", file.num_bytes),
                 .found = error ? error.message() : fmt::format("{} bytes", size),
                 .next = "put the checkpoint folder on a file system that all ranks share"});
}

}  // namespace

std::string write_part(const std::filesystem::path& temporary_path, int64_t part_index,
                       std::span<const NamedTensor> tensors, std::span<const NamedSlice> slices) {
  LONGSHIP_CHECK(part_index >= 0, "part {}", part_index);
  PartContent part = {.part_index = part_index, .file = {}, .tensors = {}};
  std::vector<NamedTensor> all(tensors.begin(), tensors.end());  // with their names in the file
  for (const NamedTensor& one : tensors)
    part.tensors.push_back(
        describe({one, Shape(one.tensor.shape().size(), 0), one.tensor.shape()}));
  for (const NamedSlice& one : slices) {
    all.push_back({one.slice.name + shape_string(one.begin), one.slice.tensor});
    part.tensors.push_back(describe(one));
  }

  const std::string name = fmt::format("part_{:05}.safetensors", part_index);
  BlockChecksums blocks;
  std::map<std::string, int64_t> offsets;
  for (const SafetensorsEntry& entry :
       write_safetensors(temporary_path / name, all, {}, [&](auto bytes) { blocks.update(bytes); }))
    offsets[entry.name] = entry.offset;
  part.file = blocks.finish(name);
  for (size_t i = 0; i < all.size(); ++i)
    part.tensors[i].slices[0].offset = offsets.at(all[i].name);
  return serialise_part(part);
}

void commit_checkpoint(AtomicDirectory& directory, const CheckpointHeader& header,
                       std::span<const std::string> part_records) {
  const std::optional<int64_t> named_step = step_of_name(directory.path());
  LONGSHIP_CHECK(!named_step || *named_step == header.step, "{} for step {}",
                 directory.path().string(), header.step);
  std::vector<PartContent> parts;
  for (const std::string& record : part_records) parts.push_back(parse_part(record));
  std::sort(parts.begin(), parts.end(),
            [](const PartContent& a, const PartContent& b) { return a.part_index < b.part_index; });

  CheckpointContent content = {header, {}, {}};
  std::map<std::string, CheckpointTensor> tensors;
  for (const PartContent& part : parts) {
    LONGSHIP_CHECK(part.part_index == static_cast<int64_t>(content.files.size()),
                   "part {} is missing or given twice", content.files.size());
    check_part_is_visible(directory.temporary_path(), part.file);
    merge_part(part, content.files.size(), tensors);
    content.files.push_back(part.file);
  }
  for (auto& [name, tensor] : tensors) content.tensors.push_back(std::move(tensor));
  const std::string problem = layout_problem(content);
  LONGSHIP_CHECK(problem.empty(), "{}", problem);

  const std::filesystem::path path = directory.temporary_path() / kManifestName;
  const std::string manifest = seal_manifest(content);
  // What cannot be read back (text that is not UTF-8) must not become a checkpoint.
  unseal_manifest(manifest, path);
  write_file_atomically(path, manifest);
  directory.commit(IfExists::kReplace);
}

}  // namespace longship
