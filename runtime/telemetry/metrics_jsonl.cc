#include "runtime/telemetry/metrics_jsonl.h"

#include <nlohmann/json.hpp>
#include <string_view>

#include "runtime/error.h"
#include "runtime/io/mapped_file.h"

namespace longship {
namespace {

// The step that a line reports; anything else than a line of ours throws.
int64_t step_of_line(std::string_view line, const std::filesystem::path& path, int64_t number) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_unsigned())
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("{}: line {} is damaged", path.string(), number),
                 .expected = "a JSON object with a step",
                 .found = std::string(line.substr(0, 80)),
                 .next = "repair the line, or move the file away to start a new one"});
  return json["step"].get<int64_t>();
}

// How much of the file belongs to the first `last_step` steps.
int64_t bytes_to_keep(const std::filesystem::path& path, int64_t last_step) {
  const MappedFile file = MappedFile::open(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  size_t kept = 0;
  for (int64_t number = 1;; ++number) {
    const size_t end = text.find('\n', kept);
    // A line without its end was cut short by a crash.
    if (end == std::string_view::npos) break;
    if (step_of_line(text.substr(kept, end - kept), path, number) > last_step) break;
    kept = end + 1;
  }
  return static_cast<int64_t>(kept);
}

}  // namespace

MetricsJsonl::MetricsJsonl(const std::filesystem::path& path, int64_t resumed_step)
    : file_(FileDescriptor::open_for_appending(path)) {
  file_.truncate(bytes_to_keep(path, resumed_step));
}

void MetricsJsonl::append(const StepMetrics& m) {
  // Ordered as read by people; NaN and infinity become null.
  nlohmann::ordered_json json = {{"step", m.step},
                                 {"total_steps", m.total_steps},
                                 {"loss", m.loss},
                                 {"grad_norm", m.grad_norm},
                                 {"learning_rate", m.learning_rate},
                                 {"tokens", m.tokens},
                                 {"tokens_consumed", m.tokens_consumed},
                                 {"step_s", m.step_s},
                                 {"tokens_per_s", m.tokens_per_s},
                                 {"live_memory_bytes", m.live_memory_bytes},
                                 {"peak_memory_bytes", m.peak_memory_bytes},
                                 {"reserved_memory_bytes", m.reserved_memory_bytes},
                                 {"system_allocations", m.system_allocations},
                                 {"comm_wait_share", m.comm_wait_share},
                                 {"data_wait_share", m.data_wait_share},
                                 {"eta_s", m.eta_s},
                                 {"loss_hex", fmt::format("{:a}", m.loss)},
                                 {"grad_norm_hex", fmt::format("{:a}", m.grad_norm)}};
  if (m.flops_per_s) json["flops_per_s"] = *m.flops_per_s;
  if (m.mfu) json["mfu"] = *m.mfu;
  if (m.validation_loss) json["validation_loss"] = *m.validation_loss;
  const int64_t size = file_.size();
  try {
    file_.write(bytes_of(json.dump() + "\n"));
  } catch (...) {
    // A full disk may take half a line, which would spoil the next one.
    file_.truncate(size);
    throw;
  }
}

}  // namespace longship
