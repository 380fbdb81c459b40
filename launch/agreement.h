// Ranks that succeed together or fail together.
#pragma once

#include <functional>
#include <string>

#include "parallel/group.h"

namespace longship {

// Runs `action` on every rank, then compares notes: if it threw an Error anywhere, every rank
// throws the error of the lowest such rank, with that rank's number. `action` must not communicate
// over `world`, or must itself fail on all ranks alike. Collective.
void run_together(const Group& world, const std::string& label,
                  const std::function<void()>& action);

}  // namespace longship
