// The configuration of a checkpoint, made to run on the ranks of another job.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "launch/config.pb.h"
#include "runtime/checkpoint/checkpoint.h"

namespace longship {

// The checkpoint's own configuration with every rank on the sp axis, one sample at a time,
// `context` if given, then the overrides. Throws Error(kConfig) when the result cannot run.
config::Run inference_config(const Checkpoint& checkpoint, std::span<const std::string> overrides,
                             int num_ranks, std::optional<int64_t> context);

}  // namespace longship
