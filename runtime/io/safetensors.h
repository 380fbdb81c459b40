// The safetensors format (Hugging Face): 8 bytes little-endian header length, a JSON header, raw
// little-endian tensors without holes.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/io/file_descriptor.h"
#include "runtime/named_tensor.h"

namespace longship {

struct SafetensorsEntry {
  std::string name;
  std::string dtype_name;      // as in the file: "F32", "BF16", "I64", ...
  std::optional<DType> dtype;  // none for dtypes of the format that Longship cannot hold (F16, ...)
  Shape shape;
  int64_t offset = 0;  // from the start of the file
  int64_t num_bytes = 0;
};

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
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  // The entry of `name`, or null.
  const SafetensorsEntry* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Copies a tensor into `destination` (any strides). Throws Error(kConfig) when the file has no
  // such tensor, another shape, or another dtype; with kAllow, F32, F64 and BF16 convert into each
  // other (round to nearest even).
  void read(std::string_view name, const Tensor& destination,
            DTypeConversion conversion = DTypeConversion::kRefuse) const;

 private:
  FileDescriptor file_;
  std::vector<SafetensorsEntry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

struct SafetensorsWritten {
  std::vector<SafetensorsEntry> entries;  // in the order of their offsets
  int64_t num_bytes = 0;                  // of the file
};

// Writes `tensors` (any strides, names unique) as an AtomicFile. The first tensor starts at a
// multiple of 64 bytes; tensors are ordered by falling element size and then as given, so every
// one is aligned to its elements without the holes that the format forbids.
SafetensorsWritten write_safetensors(const std::filesystem::path& path,
                                     std::span<const NamedTensor> tensors,
                                     const std::map<std::string, std::string>& metadata = {});

}  // namespace longship
