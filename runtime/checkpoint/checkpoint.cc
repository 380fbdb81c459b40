#include "runtime/checkpoint/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "runtime/checkpoint/checkpoint_store.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/io/checksum.h"
#include "runtime/io/file_descriptor.h"
#include "runtime/io/file_error.h"
#include "runtime/io/tensor_bytes.h"

namespace longship {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(std::string what, std::string expected, std::string found) {
  throw Error(ErrorCode::kCorrupt, {.what = std::move(what),
                                    .expected = std::move(expected),
                                    .found = std::move(found),
                                    .next = "use an earlier checkpoint"});
}

// The size of a file that a complete checkpoint must have.
int64_t required_file_bytes(const fs::path& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (error && error.value() != ELOOP && status.type() != fs::file_type::not_found)
    throw_file_error("inspect", path, error.value());
  if (status.type() != fs::file_type::regular)
    refuse(fmt::format("checkpoint {} is incomplete", path.parent_path().string()),
           fmt::format("the file {}", path.filename().string()),
           fs::exists(status) ? "something that is not a file" : "no such file");
  return FileDescriptor::open_for_reading(path).size();
}

std::string read_manifest(const fs::path& path) {
  const int64_t num_bytes = required_file_bytes(path);
  constexpr int64_t kMaxBytes = int64_t{1} << 30;
  if (num_bytes > kMaxBytes)
    refuse(fmt::format("{} is damaged", path.string()), fmt::format("at most {} bytes", kMaxBytes),
           fmt::format("{} bytes", num_bytes));
  std::string bytes(static_cast<size_t>(num_bytes), '\0');
  FileDescriptor::open_for_reading(path).read_at(0, std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

// The tensors with bytes in [begin, end) of a file, for messages: "model.norm.weight and 3 more".
std::string tensors_in(const CheckpointContent& content, size_t file, int64_t begin, int64_t end) {
  std::string first;
  int64_t others = 0;
  for (const CheckpointTensor& tensor : content.tensors)
    for (const CheckpointSlice& slice : tensor.slices)
      if (slice.file == file && slice.offset < end && slice.offset + slice.num_bytes > begin) {
        if (first.empty())
          first = tensor.name;
        else
          ++others;
      }
  if (first.empty()) return "the header of the file";
  return others == 0 ? "tensor " + first : fmt::format("tensor {} and {} more", first, others);
}

// The first and last of its elements, if it has any, as numbers in the flattened tensor.
std::pair<int64_t, int64_t> flat_span(const Shape& shape, const CheckpointSlice& slice) {
  int64_t first = 0, last = 0;
  for (size_t dim = 0; dim < shape.size(); ++dim) {
    first = first * shape[dim] + slice.begin[dim];
    last = last * shape[dim] + slice.begin[dim] + slice.extent[dim] - 1;
  }
  return {first, last};
}

// The view of `tensor` that a slice fills.
Tensor box(Tensor tensor, const CheckpointSlice& slice) {
  for (size_t dim = 0; dim < slice.begin.size(); ++dim)
    tensor = tensor.slice(static_cast<int>(dim), slice.begin[dim], slice.extent[dim]);
  return tensor;
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error))
    throw_file_error("open checkpoint", directory, error ? error.value() : ENOTDIR);
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  const fs::path manifest = directory / kManifestName;
  checkpoint.content_ = unseal_manifest(read_manifest(manifest), manifest);
  const int64_t step = checkpoint.header().step;
  if (const std::optional<int64_t> named = step_of_name(directory); named && *named != step)
    refuse(fmt::format("checkpoint {} holds another step", directory.string()),
           fmt::format("step {}", *named), fmt::format("step {}", step));
  for (const CheckpointFile& file : checkpoint.files()) {
    const int64_t found = required_file_bytes(directory / file.name);
    if (found != file.num_bytes)
      refuse(fmt::format("{} has the wrong size", (directory / file.name).string()),
             fmt::format("{} bytes", file.num_bytes), fmt::format("{} bytes", found));
  }
  return checkpoint;
}

const CheckpointTensor* Checkpoint::find(std::string_view name) const {
  const auto found = std::lower_bound(
      tensors().begin(), tensors().end(), name,
      [](const CheckpointTensor& tensor, std::string_view key) { return tensor.name < key; });
  return found != tensors().end() && found->name == name ? &*found : nullptr;
}

void Checkpoint::verify(int64_t index, int64_t count) const {
  LONGSHIP_CHECK(index >= 0 && index < count, "reader {} of {}", index, count);
  int64_t num_blocks = 0;
  for (const CheckpointFile& file : files())
    num_blocks += static_cast<int64_t>(file.block_checksums.size());
  const int64_t first = num_blocks * index / count, last = num_blocks * (index + 1) / count;

  std::vector<std::byte> buffer(static_cast<size_t>(kChecksumBlockBytes));
  int64_t block = 0;  // counted over all files
  for (size_t f = 0; f < files().size(); ++f) {
    const CheckpointFile& file = files()[f];
    const int64_t file_first = block;
    block += static_cast<int64_t>(file.block_checksums.size());
    if (block <= first || file_first >= last) continue;
    const FileDescriptor descriptor = FileDescriptor::open_for_reading(directory_ / file.name);
    for (int64_t b = std::max(first, file_first); b < std::min(last, block); ++b) {
      const int64_t begin = (b - file_first) * kChecksumBlockBytes;
      const int64_t end = std::min(begin + kChecksumBlockBytes, file.num_bytes);
      const std::span<std::byte> bytes(buffer.data(), static_cast<size_t>(end - begin));
      descriptor.read_at(begin, bytes);
      const uint64_t expected = file.block_checksums[static_cast<size_t>(b - file_first)];
      const uint64_t found = checksum(bytes);
      if (found != expected)
        refuse(fmt::format("{} is damaged between offsets {} and {}, in {}",
                           descriptor.path().string(), begin, end,
                           tensors_in(content_, f, begin, end)),
               fmt::format("checksum {:016x}", expected), fmt::format("checksum {:016x}", found));
    }
  }
}

void Checkpoint::read(std::string_view name, const Tensor& destination) const {
  read_slices(name, destination, 0, destination.numel());
}

void Checkpoint::read_run(std::string_view name, const Shape& shape, int64_t first_element,
                          const Tensor& destination) const {
  const int64_t count = destination.numel();
  if (count == 0) return;
  const Tensor whole = Tensor::empty(std::make_shared<Memory>(), shape, destination.dtype());
  read_slices(name, whole, first_element, first_element + count);
  destination.copy_from(whole.reshape({-1}).slice(0, first_element, count));
}

void Checkpoint::read_slices(std::string_view name, const Tensor& destination, int64_t begin,
                             int64_t end) const {
  const CheckpointTensor* tensor = find(name);
  if (tensor == nullptr || tensor->shape != destination.shape() ||
      tensor->dtype != destination.dtype())
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("checkpoint {} does not fit: tensor \"{}\"",
                                     directory_.string(), name),
                 .expected = fmt::format("{} {}", dtype_name(destination.dtype()),
                                         shape_string(destination.shape())),
                 .found = tensor == nullptr ? "no such tensor"
                                            : fmt::format("{} {}", dtype_name(tensor->dtype),
                                                          shape_string(tensor->shape)),
                 .next = "use the model configuration that the checkpoint was written with"});
  for (const CheckpointSlice& slice : tensor->slices) {
    const auto [first, last] = flat_span(tensor->shape, slice);
    if (slice.num_bytes > 0 && (last < begin || first >= end)) continue;
    const Tensor target = box(destination, slice);
    const Tensor packed = target.is_contiguous()
                              ? target
                              : Tensor::empty(destination.memory(), slice.extent, tensor->dtype);
    const fs::path path = directory_ / files()[slice.file].name;
    const FileDescriptor file = FileDescriptor::open_for_reading(path);
    Checksum sum;
    fill_tensor_bytes(packed, [&](int64_t offset, std::span<std::byte> bytes) {
      file.read_at(slice.offset + offset, bytes);
      sum.update(bytes);
    });
    const uint64_t found = sum.value();
    if (found != slice.checksum)
      refuse(fmt::format("{} is damaged between offsets {} and {}, in tensor {}", path.string(),
                         slice.offset, slice.offset + slice.num_bytes, name),
             fmt::format("checksum {:016x}", slice.checksum),
             fmt::format("checksum {:016x}", found));
    if (!target.is_contiguous()) target.copy_from(packed);
  }
}

}  // namespace longship
