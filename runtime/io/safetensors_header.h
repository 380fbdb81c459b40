// The JSON header of a safetensors file, read from untrusted bytes and written.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tensor.h"

namespace longship {

struct SafetensorsEntry {
  std::string name;
  std::string dtype_name;      // as in the file: "F32", "BF16", "I64", ...
  std::optional<DType> dtype;  // none for dtypes of the format that Longship cannot hold (F16, ...)
  Shape shape;
  int64_t offset = 0;  // from the start of the file
  int64_t num_bytes = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of their offsets
  std::map<std::string, std::string> metadata;
};

// The reference implementation refuses longer headers.
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// "F32", "BF16", ... as the format spells it.
std::string_view safetensors_dtype_name(DType dtype);

// Parses `json`, which stands before the tensors of a file of `file_bytes` bytes; the first tensor
// starts at 8 + json.size(). Refuses (Error(kCorrupt) naming `path`, tensor and fact) everything
// that the format does not allow: see SafetensorsReader::open.
SafetensorsHeader parse_safetensors_header(std::string_view json, int64_t file_bytes,
                                           const std::filesystem::path& path);

// The length field, the JSON of `header`, and spaces up to a multiple of 64 bytes. Offsets of the
// entries count from the end of what is returned. Text that is not UTF-8 throws Error(kConfig).
std::string format_safetensors_header(const SafetensorsHeader& header);

}  // namespace longship
