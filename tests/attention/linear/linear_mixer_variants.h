// The published models that LinearMixer serves, at tiny sizes: every family and every option away
// from its family's default somewhere.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "attention/linear/linear_mixer_options.h"

namespace longship::testing {

using LinearVariant = std::pair<std::string, LinearMixerOptions>;

inline std::vector<LinearVariant> linear_variants() {
  std::vector<LinearVariant> all;
  auto add = [&](const std::string& name, const std::string& backend, auto&& change) {
    LinearMixerOptions options = LinearMixerOptions::for_backend(backend);
    options.hidden_size = 7;
    options.num_heads = 4;
    options.key_size = 4;
    options.value_size = 5;
    options.init_std = 0.4;
    options.num_layers = 3;
    options.layer_index = 1;
    change(options);
    all.emplace_back(name, options);
  };
  using Options = LinearMixerOptions;
  add("MiniMax-01", "lightning", [](Options&) {});
  add("MiniCPM-SALA", "lightning", [](Options& o) {
    o.silu_qk = o.silu_v = false;
    o.qk_norm = QkNorm::kRms;
    o.rope_theta = 100;
    o.scale = 0;
    o.decay = DecayLaw::kAlibi;
  });
  add("lightning with three heads", "lightning", [](Options& o) { o.num_heads = 3; });
  add("RetNet", "retention", [](Options& o) { o.value_size = 8; });
  add("simple GLA with partial rotation", "simple_gla",
      [](Options& o) { o.num_key_heads = 2, o.rope_theta = 50, o.rotary_dim = 2; });
  add("Mamba-2", "mamba2", [](Options& o) { o.num_key_heads = 2; });
  add("Mamba-2 with limited steps", "mamba2",
      [](Options& o) { o.num_key_heads = 2, o.step_low = 5e-5, o.step_high = 1.2; });
  add("Mamba-2, norm before gate", "mamba2", [](Options& o) { o.norm_before_gate = true; });
  add("Falcon-H1 without norm", "mamba2",
      [](Options& o) { o.num_key_heads = 2, o.output_norm = OutputNorm::kNone; });
  add("GLA", "gla", [](Options& o) { o.gate_rank = 3; });
  add("GLA with a full gate", "gla", [](Options& o) { o.gate_rank = 0, o.gate_normalizer = 2; });
  add("HGRN-2", "hgrn2", [](Options&) {});
  add("HGRN-2, first layer", "hgrn2", [](Options& o) { o.layer_index = 0; });
  add("HGRN-2, given floor", "hgrn2", [](Options& o) { o.forget_floor = 0.9; });
  add("DeltaNet", "delta_net", [](Options&) {});
  add("DeltaNet without convolution", "delta_net", [](Options& o) { o.conv_size = 0; });
  add("Qwen3-Next", "gated_delta", [](Options& o) { o.num_key_heads = 2; });
  add("Olmo Hybrid", "gated_delta", [](Options& o) {
    o.num_heads = 3, o.key_size = 3, o.value_size = 6, o.max_beta = 2, o.conv_size = 2;
  });
  add("Kimi Linear", "kda", [](Options&) {});
  add("Kimi Linear, safe gate", "kda",
      [](Options& o) { o.num_key_heads = 2, o.gate = GateLaw::kBounded, o.output_gate_rank = 0; });
  add("BASED", "based", [](Options& o) { o.key_size = 3, o.num_key_heads = 2; });
  add("Taylor map without mean, sigmoid gate", "based", [](Options& o) {
    o.key_size = 2;
    o.normalized = false;
    o.output_gate = OutputGate::kSigmoid;
  });
  return all;
}

}  // namespace longship::testing
