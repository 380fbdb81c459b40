#include "attention/linear/linear_mixer_options.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "runtime/error.h"
#include "runtime/problems.h"

namespace longship {
namespace {

std::vector<LinearFamily> make_families() {
  std::vector<LinearFamily> families;
  auto add = [&](std::string_view name, std::string_view summary, LinearMixerOptions options) {
    options.backend = name;
    families.push_back({name, summary, std::move(options)});
  };
  add("lightning", "linear attention with a constant decay per head (MiniMax-01, arXiv 2501.08313)",
      {.silu_qk = true,
       .silu_v = true,
       .scale = 1,
       .gate = GateLaw::kConstant,
       .decay = DecayLaw::kLightning,
       .output_norm = OutputNorm::kFull,
       .output_gate = OutputGate::kSigmoid});
  add("retention", "RetNet's retention, with rotary positions (arXiv 2307.08621)",
      {.rope_theta = 10000,
       .gate = GateLaw::kConstant,
       .decay = DecayLaw::kRetention,
       .output_gate = OutputGate::kSilu});
  add("simple_gla", "linear attention with a learned decay per head (arXiv 2312.06635)",
      {.gate = GateLaw::kLogSigmoid, .gate_bias = true, .output_gate = OutputGate::kSilu});
  add("mamba2", "state-space duality: decay, write and skip by step sizes (arXiv 2405.21060)",
      {.num_key_heads = 1,
       .conv_size = 4,
       .conv_bias = true,
       .silu_qk = true,
       .silu_v = true,
       .scale = 1,
       .gate = GateLaw::kSoftplus,
       .step_size = true,
       .skip = true,
       .output_norm = OutputNorm::kGroup,
       .output_gate = OutputGate::kSilu,
       .norm_before_gate = false});
  add("gla", "gated linear attention: a learned decay per key (arXiv 2312.06635)",
      {.gate = GateLaw::kLogSigmoid,
       .gate_per_key = true,
       .gate_rank = 16,
       .gate_bias = true,
       .output_gate = OutputGate::kSilu});
  add("hgrn2", "keys tied to forget gates with a floor that rises by layer (arXiv 2404.07904)",
      {.silu_qk = true,
       .gate = GateLaw::kForget,
       .gate_per_key = true,
       .output_norm = OutputNorm::kFull});
  add("delta_net", "the delta rule without decay (arXiv 2406.06484)",
      {.conv_size = 4,
       .silu_qk = true,
       .silu_v = true,
       .qk_norm = QkNorm::kL2,
       .delta_rule = true});
  add("gated_delta", "the delta rule with a decay per head (Qwen3-Next, arXiv 2412.06464)",
      {.conv_size = 4,
       .silu_qk = true,
       .silu_v = true,
       .qk_norm = QkNorm::kL2,
       .gate = GateLaw::kSoftplus,
       .rate_low = 0,
       .delta_rule = true,
       .norm_eps = 1e-6,
       .output_gate = OutputGate::kSilu});
  add("kda", "Kimi Delta Attention: the delta rule with a decay per key (arXiv 2510.26692)",
      {.conv_size = 4,
       .silu_qk = true,
       .silu_v = true,
       .qk_norm = QkNorm::kL2,
       .gate = GateLaw::kSoftplus,
       .gate_per_key = true,
       .gate_rank = LinearMixerOptions::kRankOfHead,
       .delta_rule = true,
       .output_gate = OutputGate::kSigmoid,
       .output_gate_rank = LinearMixerOptions::kRankOfHead,
       .output_gate_bias = true});
  add("based", "the softmax's Taylor series to second order as linear attention (arXiv 2402.18668)",
      {.taylor_map = true, .normalized = true, .output_norm = OutputNorm::kNone});
  return families;
}

// The slopes of ALiBi (Press et al. 2022, arXiv 2108.12409, and its code): for a head count between
// powers of two, those of the power below, then every second one of the power above.
double alibi_slope(int64_t head, int64_t num_heads) {
  const int64_t below = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(num_heads)));
  const double step = 8 / static_cast<double>(below);
  return head < below ? std::exp2(-step * static_cast<double>(head + 1))
                      : std::exp2(-step * (static_cast<double>(head - below) + 0.5));
}

bool is_rank(int64_t rank) {
  return rank >= 0 || rank == LinearMixerOptions::kRankOfHead;
}

void check_sizes(const LinearMixerOptions& o, Problems& problems) {
  const auto families = linear_families();
  problems.require(
      std::any_of(families.begin(), families.end(),
                  [&](const LinearFamily& family) { return family.name == o.backend; }),
      "backend `{}` is not of the linear family", o.backend);
  problems.require(o.hidden_size > 0, "hidden_size {} is not positive", o.hidden_size);
  problems.require(o.num_heads > 0, "num_heads {} is not positive", o.num_heads);
  problems.require(o.key_heads() > 0 && o.num_heads % o.key_heads() == 0,
                   "num_key_heads {} does not divide num_heads {}", o.key_heads(), o.num_heads);
  problems.require(o.key_size > 0, "key_size {} is not positive", o.key_size);
  problems.require(o.value_size > 0, "value_size {} is not positive", o.value_size);
}

void check_queries_and_keys(const LinearMixerOptions& o, Problems& problems) {
  problems.require(o.conv_size >= 0 && o.conv_size <= 16, "conv_size {} is not between 0 and 16",
                   o.conv_size);
  problems.require(!o.conv_bias || o.conv_size > 0, "conv_bias without a convolution");
  problems.require(o.rope_theta >= 0 && std::isfinite(o.rope_theta),
                   "rope_theta {} is neither 0 nor positive", o.rope_theta);
  const int64_t rotated = o.rotary_dim == 0 ? o.key_size : o.rotary_dim;
  problems.require(o.rope_theta == 0 || (rotated > 0 && rotated <= o.key_size && rotated % 2 == 0),
                   "rotary_dim {} is not an even number up to key_size {}", rotated, o.key_size);
  problems.require(
      !o.normalized || (o.taylor_map && o.gate == GateLaw::kNone && !o.delta_rule),
      "normalized needs taylor_map, whose weights are positive, without decay and delta rule");
  problems.require(o.scale >= 0 && std::isfinite(o.scale), "scale {} is neither 0 nor positive",
                   o.scale);
}

void check_gate(const LinearMixerOptions& o, Problems& problems) {
  problems.require(!o.gate_per_key || (o.gate != GateLaw::kNone && o.gate != GateLaw::kConstant),
                   "gate_per_key without a learned gate");
  problems.require(!(o.gate_per_key && o.taylor_map),
                   "gate_per_key cannot follow the features of taylor_map");
  problems.require(is_rank(o.gate_rank), "gate_rank {} is negative", o.gate_rank);
  problems.require(
      o.gate != GateLaw::kLogSigmoid || (o.gate_normalizer > 0 && std::isfinite(o.gate_normalizer)),
      "gate_normalizer {} is not positive", o.gate_normalizer);
  problems.require(
      o.gate != GateLaw::kBounded || (o.gate_lower_bound < 0 && std::isfinite(o.gate_lower_bound)),
      "gate_lower_bound {} is not negative", o.gate_lower_bound);
  problems.require(
      o.rate_low >= 0 && o.rate_high >= o.rate_low && o.rate_high > 0 && std::isfinite(o.rate_high),
      "rates from {} to {} are no range of positive numbers", o.rate_low, o.rate_high);
}

// Keys are what the gate forgets.
void check_forget_gate(const LinearMixerOptions& o, Problems& problems) {
  problems.require(o.forget_floor == -1 || (o.forget_floor >= 0 && o.forget_floor < 1),
                   "forget_floor {} is neither -1 nor in [0, 1)", o.forget_floor);
  problems.require(o.gate_per_key, "keys tied to the forget gate need gate_per_key");
  problems.require(o.key_heads() == o.num_heads,
                   "keys tied to the forget gate need as many key heads as heads, not {}",
                   o.key_heads());
  problems.require(o.qk_norm == QkNorm::kNone && o.rope_theta == 0,
                   "keys tied to the forget gate take neither qk_norm nor RoPE");
}

void check_values(const LinearMixerOptions& o, Problems& problems) {
  problems.require(o.max_beta > 0 && o.max_beta <= 2, "max_beta {} is not in (0, 2]", o.max_beta);
  problems.require(!o.step_size || (o.gate == GateLaw::kSoftplus && !o.gate_per_key),
                   "step_size needs the softplus gate per head");
  problems.require(o.step_low >= 0 && std::isfinite(o.step_low) && o.step_high >= 0 &&
                       std::isfinite(o.step_high) && (o.step_high == 0 || o.step_high > o.step_low),
                   "steps from {} to {} are no range of positive numbers", o.step_low, o.step_high);
  problems.require(o.step_size || (o.step_low == 0 && o.step_high == 0),
                   "step_low and step_high have no effect without step_size");
}

void check_output(const LinearMixerOptions& o, Problems& problems) {
  problems.require(o.norm_eps > 0, "norm_eps {} is not positive", o.norm_eps);
  problems.require(is_rank(o.output_gate_rank), "output_gate_rank {} is negative",
                   o.output_gate_rank);
  const bool is_gated = o.output_gate != OutputGate::kNone;
  problems.require(is_gated || o.norm_before_gate, "a norm after the gate needs an output gate");
  problems.require(is_gated || o.output_norm != OutputNorm::kGroup,
                   "a norm by groups needs an output gate");
}

void check_layer(const LinearMixerOptions& o, Problems& problems) {
  problems.require(o.init_std >= 0, "init_std {} is negative", o.init_std);
  problems.require(o.num_layers > 0, "num_layers {} is not positive", o.num_layers);
  problems.require(o.layer_index >= 0 && o.layer_index < o.num_layers,
                   "layer_index {} is not below num_layers {}", o.layer_index, o.num_layers);
}

}  // namespace

std::span<const LinearFamily> linear_families() {
  static const std::vector<LinearFamily> families = make_families();
  return families;
}

LinearMixerOptions LinearMixerOptions::for_backend(std::string_view name) {
  std::vector<std::string_view> names;
  for (const LinearFamily& family : linear_families()) {
    if (family.name == name) return family.options;
    names.push_back(family.name);
  }
  throw Error(ErrorCode::kConfig, {.what = "unknown linear attention",
                                   .expected = fmt::format("one of: {}", fmt::join(names, ", ")),
                                   .found = fmt::format("`{}`", name)});
}

std::vector<std::string> LinearMixerOptions::problems() const {
  Problems found;
  check_sizes(*this, found);
  check_queries_and_keys(*this, found);
  check_gate(*this, found);
  if (gate == GateLaw::kForget) check_forget_gate(*this, found);
  check_values(*this, found);
  check_output(*this, found);
  check_layer(*this, found);
  return found.take();
}

double LinearMixerOptions::kernel_scale() const {
  if (scale != 0) return scale;
  return taylor_map ? 1 : 1 / std::sqrt(static_cast<double>(key_size));
}

double LinearMixerOptions::resolved_forget_floor() const {
  return forget_floor >= 0 ? forget_floor
                           : static_cast<double>(layer_index) / static_cast<double>(num_layers);
}

StepLimits LinearMixerOptions::step_limits() const {
  return {.low = step_low,
          .high = step_high > 0 ? step_high : std::numeric_limits<double>::infinity()};
}

std::vector<double> LinearMixerOptions::constant_log_decays() const {
  const double depth =
      static_cast<double>(layer_index) / (static_cast<double>(num_layers) - 1 + 1e-5);
  std::vector<double> log_decays;
  for (int64_t h = 0; h < num_heads; ++h) {
    const double slope = alibi_slope(h, num_heads);
    switch (decay) {
      case DecayLaw::kAlibi:
        log_decays.push_back(-slope);
        break;
      case DecayLaw::kLightning:
        log_decays.push_back(-slope * (1 - depth + 1e-5));
        break;
      case DecayLaw::kRetention:
        log_decays.push_back(std::log1p(-std::exp2(-5 - static_cast<double>(h))));
        break;
    }
  }
  return log_decays;
}

}  // namespace longship
