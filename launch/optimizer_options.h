// The optimizer that a configuration describes.
#pragma once

#include "launch/config.pb.h"
#include "optim/adamw.h"

namespace longship {

AdamWOptions optimizer_options(const config::Optimizer& optim);

}  // namespace longship
