// Central differences of a whole model's leaves, its parameters and inputs.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/autograd/variable.h"

namespace longship::testing {

// Compares the gradients that fp64 leaves have got with central differences of `loss`, which reads
// their values, at up to 15 elements of each, and requires that every leaf but `without_effect` has
// an effect.
void check_leaf_gradients(const std::vector<std::pair<std::string, Variable>>& leaves,
                          const std::function<double()>& loss,
                          std::string_view without_effect = {});

}  // namespace longship::testing
