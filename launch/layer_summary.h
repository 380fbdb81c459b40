// The layers of a model in words, for the header of a run and for `longship inspect`.
#pragma once

#include <string>
#include <vector>

#include "launch/config.pb.h"
#include "runtime/context.h"

namespace longship {

// One line for each kind of mixer: how many layers have it, its sizes and its strategy.
std::vector<std::string> mixer_lines(const config::Run& run);

// Which layers hold what, as "0-2 gated_delta, 3 full, ...": runs of equal layers.
std::string layer_ranges(const config::Run& run);

// Parameters by kind of layer, and their sum: one line each. Builds one mixer of each kind, without
// values for its weights.
int64_t count_parameters(Context& ctx, const config::Run& run);
std::vector<std::string> parameter_lines(Context& ctx, const config::Run& run);

}  // namespace longship
