// "local": softmax attention of one rank that holds every token, the case without communication.
#pragma once

#include <memory>

#include "parallel/resident_schedule.h"

namespace longship {

// For plans of one rank and any heads, under the name of a schedule.
std::shared_ptr<const ResidentPasses> make_local_passes(const char* name,
                                                        const SoftmaxBlock& kernel);

}  // namespace longship
