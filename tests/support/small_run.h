// The text of a small valid run configuration, to be varied by overrides.
#pragma once

namespace longship::testing {

constexpr const char* kSmallRun = R"(
output_dir: "out" data { tokens: "a.tokens" }
model { hidden_size: 32 intermediate_size: 48 num_layers: 2 attention { num_heads: 4 } }
optim { learning_rate: 1e-3 } train { steps: 10 context: 64 }
)";

}  // namespace longship::testing
