// `strategy: auto`: the strategy of each mixer from its sizes and from what the machine can do.
#pragma once

#include <string>
#include <vector>

#include "launch/config.pb.h"
#include "parallel/mesh.h"
#include "runtime/context.h"

namespace longship {

// Puts a name in the place of every "auto" of a valid, resolved configuration, the same on all
// ranks, and returns a line for each that says which and why. Names that the run in output_dir
// chose before on as many ranks and the same layout are kept, so that it resumes with the same
// bits; for the others links and kernel are measured, which takes some milliseconds, and
// attention/strategy_cost.h compares what the strategies would cost. Collective.
std::vector<std::string> choose_strategies(Context& ctx, const Mesh& mesh, config::Run& run);

// Whether some mixer's strategy is "auto".
bool has_auto_strategy(const config::Run& run);

}  // namespace longship
