#include "runtime/io/safetensors.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "runtime/io/atomic_file.h"
#include "runtime/io/tensor_bytes.h"

namespace longship {
namespace {

void check_header_length(const std::filesystem::path& path, int64_t file_bytes, uint64_t length) {
  const int64_t limit = std::min(file_bytes - 8, kMaxSafetensorsHeaderBytes);
  if (length > static_cast<uint64_t>(limit))
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("{}: impossible safetensors header length", path.string()),
                 .expected = fmt::format("at most {} bytes", limit),
                 .found = fmt::format("{} bytes", length),
                 .next = "the file is truncated or not safetensors; download or write it again"});
}

bool can_read(const SafetensorsEntry& entry, DType wanted, DTypeConversion conversion) {
  if (!entry.dtype) return false;
  return *entry.dtype == wanted || (conversion == DTypeConversion::kAllow &&
                                    is_floating(*entry.dtype) && is_floating(wanted));
}

}  // namespace

SafetensorsReader SafetensorsReader::open(const std::filesystem::path& path) {
  SafetensorsReader reader;
  reader.file_ = FileDescriptor::open_for_reading(path);
  const int64_t file_bytes = reader.file_.size();
  uint64_t length = 0;
  reader.file_.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
  check_header_length(path, file_bytes, length);
  std::string json(length, '\0');
  reader.file_.read_at(8, std::as_writable_bytes(std::span(json)));
  reader.header_ = parse_safetensors_header(json, file_bytes, path);
  for (size_t i = 0; i < reader.header_.entries.size(); ++i)
    reader.index_.emplace(reader.header_.entries[i].name, i);
  return reader;
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.entries[found->second];
}

void SafetensorsReader::read(std::string_view name, const Tensor& destination,
                             DTypeConversion conversion) const {
  const SafetensorsEntry* entry = find(name);
  if (entry == nullptr)
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("{} has no tensor \"{}\"", path().string(), name),
                 .next = "check that the file belongs to this model"});
  if (entry->shape != destination.shape() || !can_read(*entry, destination.dtype(), conversion))
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("{}: tensor \"{}\" does not fit", path().string(), name),
                 .expected = fmt::format("{} {}", safetensors_dtype_name(destination.dtype()),
                                         shape_string(destination.shape())),
                 .found = fmt::format("{} {}", entry->dtype_name, shape_string(entry->shape)),
                 .next = "check that the file belongs to this model"});
  const bool direct = *entry->dtype == destination.dtype() && destination.is_contiguous();
  const Tensor packed =
      direct ? destination : Tensor::empty(destination.memory(), entry->shape, *entry->dtype);
  fill_tensor_bytes(packed, [&](int64_t offset, std::span<std::byte> bytes) {
    file_.read_at(entry->offset + offset, bytes);
  });
  if (!direct) destination.copy_from(packed);
}

std::vector<SafetensorsEntry> write_safetensors(const std::filesystem::path& path,
                                                std::span<const NamedTensor> tensors,
                                                const std::map<std::string, std::string>& metadata,
                                                const ByteObserver& observe) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return dtype_size(tensors[a].tensor.dtype()) > dtype_size(tensors[b].tensor.dtype());
  });

  SafetensorsHeader header = {{}, metadata};
  std::set<std::string_view> names = {"__metadata__"};
  int64_t end = 0;
  for (size_t i : order) {
    const auto& [name, tensor] = tensors[i];
    LONGSHIP_CHECK(names.insert(name).second, "tensor name {} is taken", name);
    header.entries.push_back({.name = name,
                              .dtype_name = std::string(safetensors_dtype_name(tensor.dtype())),
                              .dtype = tensor.dtype(),
                              .shape = tensor.shape(),
                              .offset = end,
                              .num_bytes = tensor.num_bytes()});
    end += tensor.num_bytes();
  }

  AtomicFile file(path);
  auto write = [&](std::span<const std::byte> bytes) {
    file.write(bytes);
    if (observe) observe(bytes);
  };
  write(bytes_of(format_safetensors_header(header)));
  for (SafetensorsEntry& entry : header.entries) entry.offset += file.size();
  for (size_t i : order) read_tensor_bytes(tensors[i].tensor, write);
  file.commit();
  return header.entries;
}

}  // namespace longship
