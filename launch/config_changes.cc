#include "launch/config_changes.h"

#include <algorithm>
#include <initializer_list>

#include "runtime/error.h"

namespace longship {
namespace {

using Texts = std::initializer_list<std::string_view>;

bool starts_with_any(std::string_view text, Texts beginnings) {
  return std::ranges::any_of(beginnings, [&](std::string_view b) { return text.starts_with(b); });
}

bool ends_with_any(std::string_view text, Texts endings) {
  return std::ranges::any_of(endings, [&](std::string_view e) { return text.ends_with(e); });
}

bool may_change_on_resume(std::string_view field) {
  if (field == "optim.bf16_moments") return false;  // the saved moments have its dtype
  if (field.starts_with("model.mixer.")) return field.ends_with(".strategy");
  return starts_with_any(
      field, {"output_dir", "data.tokens", "data.prefetch", "parallel.", "optim.", "checkpoint.",
              "telemetry.", "train.steps", "train.micro_batch", "train.recompute",
              "train.loss_chunk_tokens", "train.init_from", "train.device", "train.deterministic",
              "train.cuda_graphs"});
}

bool may_change_from_origin(const ConfigDifference& difference) {
  // A stack that is described in another way: its tensors are compared by name.
  if (difference.before == kUnsetField || difference.after == kUnsetField) return true;
  return starts_with_any(difference.field, {"train.context", "model.layers", "model.init_std"}) ||
         ends_with_any(difference.field, {".rope_theta", ".window", ".causal", ".num_sink_tokens",
                                          ".anchor", ".strategy"});
}

void add(std::string& lines, const ConfigDifference& difference) {
  lines += fmt::format("\n    {}: {} -> {}", difference.field, difference.before, difference.after);
}

}  // namespace

ConfigChanges changes_on_resume(const config::Run& saved, const config::Run& run) {
  ConfigChanges changes;
  for (const ConfigDifference& difference : compare_configs(saved, run))
    add(may_change_on_resume(difference.field) ? changes.allowed : changes.forbidden, difference);
  return changes;
}

ConfigChanges changes_from_origin(const config::Run& saved, const config::Run& run) {
  ConfigChanges changes;
  for (const ConfigDifference& difference : compare_configs(saved, run))
    if (starts_with_any(difference.field, {"model.", "train.context"}))
      add(may_change_from_origin(difference) ? changes.allowed : changes.forbidden, difference);
  return changes;
}

}  // namespace longship
