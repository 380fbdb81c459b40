#include "runtime/telemetry/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <system_error>

#include "runtime/io/file_error.h"
#include "runtime/telemetry/event.pb.h"
#include "runtime/telemetry/tf_record.h"

namespace longship {
namespace {

double wall_time() {
  using Seconds = std::chrono::duration<double>;
  return std::chrono::duration_cast<Seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// TensorBoard looks for "tfevents" in the name and reads files in the order of their names.
std::filesystem::path new_file_name(const std::filesystem::path& directory) {
  std::array<char, 256> host = {};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  const std::string stem = fmt::format("events.out.tfevents.{:010}.{}.{}",
                                       static_cast<int64_t>(wall_time()), host.data(), ::getpid());
  std::error_code error;
  for (int number = 0;; ++number) {
    std::filesystem::path path = directory / fmt::format("{}.{}", stem, number);
    if (!std::filesystem::exists(path, error)) return path;
  }
}

void write_event(const FileDescriptor& file, tensorboard::Event& event) {
  event.set_wall_time(wall_time());
  file.write(bytes_of(tf_record(event.SerializeAsString())));
}

void add_value(tensorboard::Event& event, std::string_view tag, double value) {
  tensorboard::Summary::Value& one = *event.mutable_summary()->add_value();
  one.set_tag(std::string(tag));
  one.set_simple_value(static_cast<float>(value));
}

}  // namespace

TensorBoard::TensorBoard(const std::filesystem::path& directory, int64_t resumed_step) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw_file_error("create", directory, error.value());
  file_ = FileDescriptor::create(new_file_name(directory));
  tensorboard::Event version;
  version.set_file_version("brain.Event:2");
  write_event(file_, version);
  tensorboard::Event start;
  start.set_step(resumed_step + 1);
  start.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  write_event(file_, start);
}

void TensorBoard::append(const StepMetrics& m) {
  tensorboard::Event event;
  event.set_step(m.step);
  add_value(event, "train/loss", m.loss);
  add_value(event, "train/grad_norm", m.grad_norm);
  add_value(event, "train/learning_rate", m.learning_rate);
  add_value(event, "train/tokens_consumed", static_cast<double>(m.tokens_consumed));
  add_value(event, "system/step_s", m.step_s);
  add_value(event, "system/tokens_per_s", m.tokens_per_s);
  add_value(event, "system/live_memory_bytes", static_cast<double>(m.live_memory_bytes));
  add_value(event, "system/peak_memory_bytes", static_cast<double>(m.peak_memory_bytes));
  add_value(event, "system/comm_wait_share", m.comm_wait_share);
  add_value(event, "system/data_wait_share", m.data_wait_share);
  add_value(event, "system/reserved_memory_bytes", static_cast<double>(m.reserved_memory_bytes));
  add_value(event, "system/system_allocations", static_cast<double>(m.system_allocations));
  if (m.flops_per_s) add_value(event, "system/tflops_per_s", *m.flops_per_s / 1e12);
  if (m.mfu) add_value(event, "system/mfu", *m.mfu);
  if (m.validation_loss) add_value(event, "validation/loss", *m.validation_loss);
  write_event(file_, event);
}

}  // namespace longship
