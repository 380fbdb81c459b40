// Whether a run can have GPUs: what the machine has and what the model needs.
#pragma once

#include <string>

#include "launch/config.pb.h"
#include "parallel/group.h"

namespace longship {

// Why the ranks of `world` cannot compute this on GPUs, the same on every rank; empty if they can.
// `run` is valid and resolved. Collective.
std::string gpu_obstacle(const config::Run& run, const Group& world);

}  // namespace longship
