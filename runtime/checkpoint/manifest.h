// MANIFEST.pb (manifest.proto) to and from CheckpointContent.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/checkpoint/checkpoint_layout.h"

namespace longship {

inline constexpr std::string_view kManifestName = "MANIFEST.pb";

// The bytes of MANIFEST.pb: the same content gives the same bytes.
std::string seal_manifest(const CheckpointContent& content);

// Untrusted bytes: compares the checksum, then checks every field (layout_problem). Throws
// Error(kCorrupt) naming `path`; Error(kConfig) for a schema newer than this program.
CheckpointContent unseal_manifest(std::string_view bytes, const std::filesystem::path& path);

// What write_part() hands to commit_checkpoint(): one file and the slices in it (their `file` is
// not used).
struct PartContent {
  int64_t part_index = 0;
  CheckpointFile file;
  std::vector<CheckpointTensor> tensors;
};
std::string serialise_part(const PartContent& part);
PartContent parse_part(std::string_view record);

}  // namespace longship
