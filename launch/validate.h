// All rules between the fields of a configuration, as one pure function that runs before anything
// starts, and the automatic values.
#pragma once

#include <string>
#include <vector>

#include "launch/config.pb.h"

namespace longship {

// Every broken rule as a sentence that names the field, the value found and a legal one. Empty: the
// configuration can run on `num_ranks` ranks.
std::vector<std::string> find_problems(const config::Run& run, int num_ranks);

// Throws one Error(kConfig) that lists all problems of find_problems().
void validate(const config::Run& run, int num_ranks, const std::string& origin);

// Fills the automatic values: sp, dp, and what the blocks of the layers leave out. Call on a valid
// configuration.
void resolve_automatic_values(config::Run& run, int num_ranks);

}  // namespace longship
