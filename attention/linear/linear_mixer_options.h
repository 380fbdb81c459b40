// What a linear-attention mixer is made of. One set of options covers the whole family; the
// published models are the defaults that linear_families() lists, and single fields may be changed.
//
//   q, k, v  = projections, short convolution, SiLU, norm, RoPE, feature map
//   S_t      = decay(g_t) S_{t-1} + k_t v_t^T, or the delta rule (attention/linear/linear_kernel.h)
//   y        = (norm(o) x gate) Wo^T
//
// G key heads of size K, H value heads of size V (H % G == 0: B and C of Mamba-2 are shared so).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/linear/decay_gate.h"

namespace longship {

enum class QkNorm {
  kNone,
  kL2,   // each head to length 1: x rsqrt(sum x^2 + 1e-6)
  kRms,  // RMSNorm per head with learned weights (MiniCPM-SALA)
};

// The law of the log-decays g <= 0; `a` is a projection of the token.
enum class GateLaw {
  kNone,        // no decay
  kConstant,    // given per head, see DecayLaw
  kSoftplus,    // -exp(A_log) softplus(a + dt_bias)
  kBounded,     // gate_lower_bound sigmoid(exp(A_log) (a + dt_bias))
  kLogSigmoid,  // logsigmoid(a) / gate_normalizer
  kForget,      // log f, f = floor + (1 - floor) sigmoid(a); the keys are 1 - f (HGRN-2)
};

// Constant log-decays of head h of H in layer l of L.
enum class DecayLaw {
  kAlibi,      // the slopes of ALiBi, negated: -2^(-8 (h+1) / H) if H is a power of two
  kLightning,  // kAlibi times 1 - l / (L - 1 + 1e-5) + 1e-5 (MiniMax-01)
  kRetention,  // log(1 - 2^(-5-h)) (RetNet)
};

enum class OutputNorm {
  kNone,
  kHead,   // RMSNorm of each head, one weight [V] for all
  kGroup,  // RMSNorm over the heads that share a key head, weight [H V] (Mamba-2)
  kFull,   // RMSNorm over all heads together, weight [H V]
};

enum class OutputGate { kNone, kSilu, kSigmoid };

struct LinearMixerOptions {
  static constexpr int64_t kRankOfHead = -1;  // a low rank equal to value_size (Kimi Linear)

  std::string backend = {};   // which family's parameter names are used, of linear_families()
  int64_t hidden_size = 0;    // E
  int64_t num_heads = 0;      // H
  int64_t num_key_heads = 0;  // G; 0 = num_heads
  int64_t key_size = 0;       // K; without the feature map
  int64_t value_size = 0;     // V

  int64_t conv_size = 0;  // taps of the causal convolution of q, k and v, up to 16; 0 = none
  bool conv_bias = false;
  bool silu_qk = false;  // after the convolution, if there is one
  bool silu_v = false;
  QkNorm qk_norm = QkNorm::kNone;
  double rope_theta = 0;    // rotary positions of q and k; 0 = none
  int64_t rotary_dim = 0;   // leading features of a head that rotate, even; 0 = all
  bool taylor_map = false;  // phi(q) . phi(k) = 1 + s + s^2 / 2, s = q . k / sqrt(K) (BASED)
  bool normalized = false;  // o divided by the sum of its weights (BASED; needs taylor_map)
  double scale = 0;         // of the outputs; 0 = 1 / sqrt(K), or 1 with the feature map

  GateLaw gate = GateLaw::kNone;
  bool gate_per_key = false;  // g [H, K] instead of [H]
  int64_t gate_rank = 0;      // of the projection to `a`; 0 = full
  bool gate_bias = false;     // of that projection
  double gate_normalizer = 16;
  double gate_lower_bound = -5;
  double forget_floor = -1;  // in [0, 1); -1 = layer_index / num_layers
  DecayLaw decay = DecayLaw::kLightning;
  double rate_low = 1, rate_high = 16;  // exp(A_log) of kSoftplus starts uniform between
  bool delta_rule = false;
  double max_beta = 1;     // beta = max_beta sigmoid(b): 1, or 2 for negative eigenvalues
  bool step_size = false;  // v times softplus(a + dt_bias) (Mamba-2; needs kSoftplus per head)
  // Least and greatest step size, in the decay too (time_step_limit of Mamba-2); 0 = no limit.
  double step_low = 0, step_high = 0;
  bool skip = false;  // o + D v per head, with v before the step size (Mamba-2)

  OutputNorm output_norm = OutputNorm::kHead;
  double norm_eps = 1e-5;
  OutputGate output_gate = OutputGate::kNone;
  bool norm_before_gate = true;   // norm(o) act(z), else norm(o act(z))
  int64_t output_gate_rank = 0;   // of the projection to z; 0 = full
  bool output_gate_bias = false;  // of that projection

  double init_std = 0.02;
  int64_t num_layers = 1;  // Wo starts at init_std / sqrt(2 num_layers)
  int64_t layer_index = 0;

  // The options of a family. Throws Error(kConfig) listing the known names.
  static LinearMixerOptions for_backend(std::string_view name);

  // What cannot be built, one line for each option that is wrong; empty when all is well.
  std::vector<std::string> problems() const;

  int64_t key_heads() const { return num_key_heads == 0 ? num_heads : num_key_heads; }
  // Key size that the kernel sees: 1 + K + K^2 with the feature map.
  int64_t kernel_key_size() const {
    return taylor_map ? 1 + key_size + key_size * key_size : key_size;
  }
  double kernel_scale() const;
  double resolved_forget_floor() const;
  StepLimits step_limits() const;
  int64_t resolved_rank(int64_t rank) const { return rank == kRankOfHead ? value_size : rank; }
  // Of GateLaw::kConstant, [H].
  std::vector<double> constant_log_decays() const;
};

struct LinearFamily {
  std::string_view name;
  std::string_view summary;    // in one line, with the paper
  LinearMixerOptions options;  // sizes are left 0
};
std::span<const LinearFamily> linear_families();

}  // namespace longship
