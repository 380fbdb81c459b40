// Run configurations: reading a text file with --set overrides, writing, and comparison.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config.pb.h"

namespace longship {

// Reads `path` (Protobuf text format, message config.Run) and applies the overrides in order.
// Each override is "section.field=value"; strings need no quotes; a repeated block is called by its
// name, "model.mixer.full.strategy=ring". Errors are kConfig with file, line and field: unreadable
// file, syntax, unknown field, wrong type.
config::Run load_config(const std::string& path, std::span<const std::string> overrides);

// The same from text; `origin` names it in errors.
config::Run parse_config(std::string_view text, const std::string& origin,
                         std::span<const std::string> overrides);

// One such override; the same errors.
void apply_override(config::Run& run, const std::string& assignment);

// Writes every field, with its default where unset, so that the text is complete; the blocks inside
// a section when they are given, and fields without a default when they are set.
std::string config_text(const config::Run& run);

// A field that differs between two configurations, with values as text, kUnsetField without one.
inline constexpr const char* kUnsetField = "unset";
struct ConfigDifference {
  std::string field;  // "model.attention.num_heads", "model.mixer.full.strategy"
  std::string before;
  std::string after;
};
std::vector<ConfigDifference> compare_configs(const config::Run& before, const config::Run& after);

}  // namespace longship
