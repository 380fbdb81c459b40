// What may differ between the configuration of a checkpoint and that of a run which goes on from
// it.
#pragma once

#include <string>

#include "launch/config.h"

namespace longship {

// Differing fields, each on a line of its own: "\n    train.seed: 11 -> 12".
struct ConfigChanges {
  std::string allowed, forbidden;
};

// Of a run that resumes: forbidden is what would change what is learned from what.
ConfigChanges changes_on_resume(const config::Run& saved, const config::Run& run);

// Of a run that starts from the weights of `saved`, as far as the model and the context go. What
// tokens see of each other and at which positions may change; forbidden is what gives weights of
// the same shapes another meaning, such as other sizes of heads.
ConfigChanges changes_from_origin(const config::Run& saved, const config::Run& run);

}  // namespace longship
