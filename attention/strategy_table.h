// The table of `longship inspect --strategies`: which strategy carries which backend, on which
// layouts and ranks, and which masks it serves, as the registry's own refusals say.
#pragma once

#include <string>

namespace longship {

std::string strategy_table();

}  // namespace longship
