// The safetensors format (Hugging Face): 8 bytes little-endian header length, a JSON header, raw
// little-endian tensors without holes.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/file_descriptor.h"
#include "runtime/io/safetensors_header.h"
#include "runtime/named_tensor.h"

namespace longship {

enum class DTypeConversion { kRefuse, kAllow };

class SafetensorsReader {
 public:
  // Reads and checks the whole header before anything else: its length (at most 100 MB and the
  // file), UTF-8 and JSON, unique names, known dtypes, sizes = shape x dtype without overflow, and
  // that the tensors cover the rest of the file without hole or overlap. Throws Error(kCorrupt)
  // naming file, tensor and fact; Error(kStorage) when the file cannot be read. Memory use is
  // bounded by the header.
  static SafetensorsReader open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  // In the order of their offsets.
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  // The entry of `name`, or null.
  const SafetensorsEntry* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  // Copies a tensor into `destination` (any strides). Throws Error(kConfig) when the file has no
  // such tensor, another shape, or another dtype; with kAllow, F32, F64 and BF16 convert into each
  // other (round to nearest even).
  void read(std::string_view name, const Tensor& destination,
            DTypeConversion conversion = DTypeConversion::kRefuse) const;

 private:
  FileDescriptor file_;
  SafetensorsHeader header_;
  std::map<std::string, size_t, std::less<>> index_;
};

// Sees the bytes of a file, in order, as they are written.
using ByteObserver = std::function<void(std::span<const std::byte>)>;

// Writes `tensors` (any strides, names unique) as an AtomicFile and returns where each one is. The
// first tensor starts at a multiple of 64 bytes; tensors are ordered by falling element size and
// then as given, so every one is aligned to its elements without the holes that the format
// forbids. Throws Error(kStorage) when the file system refuses.
std::vector<SafetensorsEntry> write_safetensors(
    const std::filesystem::path& path, std::span<const NamedTensor> tensors,
    const std::map<std::string, std::string>& metadata = {}, const ByteObserver& observe = {});

}  // namespace longship
