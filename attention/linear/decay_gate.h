// The log-decays and step sizes of linear attention from a projection `a` of the tokens. Computed
// in fp32 (fp64), whatever a's dtype.
#pragma once

#include <limits>

#include "runtime/autograd/tape.h"

namespace longship {

// Between which Mamba-2 holds its step sizes (`time_step_limit`); beyond, no gradient passes.
struct StepLimits {
  double low = 0;
  double high = std::numeric_limits<double>::infinity();
};

// T tokens, H heads; F = H gates for decays per head, H K for decays per key.
struct DecayGateInput {
  Variable a_TF;       // fp32, bf16 or fp64
  Variable A_log_H;    // the logarithm of a head's rate, in the accumulator dtype
  Variable dt_bias_F;  // in the accumulator dtype
};

// g = -exp(A_log) dt,  dt = softplus(a + dt_bias) within limits  [T, F] in the accumulator dtype
// (Mamba-2, arXiv 2405.21060; Gated DeltaNet; Kimi Delta Attention). Backward: da in a's dtype, the
// others summed over tokens in a fixed order.
Variable softplus_decay(Context& ctx, const DecayGateInput& input, StepLimits limits = {});

// g = lower_bound sigmoid(exp(A_log) (a + dt_bias)): between lower_bound < 0 and 0, so that sixteen
// tokens decay by a bounded factor (Kimi Linear's safe gate, lower_bound = -5). Otherwise alike.
Variable bounded_decay(Context& ctx, const DecayGateInput& input, double lower_bound);

// dt = softplus(a + dt_bias) within limits, the step sizes of Mamba-2.
Variable step_size(Context& ctx, const Variable& a_TF, const Variable& dt_bias_F,
                   StepLimits limits = {});

// g = logsigmoid(a) / normalizer (GLA, arXiv 2312.06635, normalizer 16). Backward: da.
Variable log_sigmoid_decay(Context& ctx, const Variable& a_TF, double normalizer);

// beta = max_beta sigmoid(b): how much of what is stored under a key the delta rule replaces. With
// max_beta 2 transitions have eigenvalues down to -1 (arXiv 2411.12537). Backward: db.
Variable write_strength(Context& ctx, const Variable& b_TH, double max_beta);

}  // namespace longship
