// TensorBoard event files: TFRecord frames around the Event messages of event.proto.
#pragma once

#include <filesystem>

#include "runtime/io/file_descriptor.h"
#include "runtime/telemetry/step_metrics.h"

namespace longship {

class TensorBoard {
 public:
  // Creates `directory` if missing and a new file `events.out.tfevents.<time>.<host>.<pid>.<n>` in
  // it. TensorBoard then drops what older files hold for steps after `resumed_step`.
  TensorBoard(const std::filesystem::path& directory, int64_t resumed_step);

  // One event with "train/loss", "train/grad_norm", "system/tokens_per_s", ..., in one write: a
  // reader sees it at once.
  void append(const StepMetrics& metrics);

  const std::filesystem::path& path() const { return file_.path(); }

 private:
  FileDescriptor file_;
};

}  // namespace longship
