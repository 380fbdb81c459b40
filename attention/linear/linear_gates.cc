#include "attention/linear/linear_gates.h"

#include "attention/linear/decay_gate.h"
#include "attention/linear/forget_gate.h"
#include "runtime/ops/linear.h"
#include "runtime/ops/reshape.h"

namespace longship {
namespace {

// softplus(dt_bias) starts log-uniform between these, as in Mamba-2.
constexpr double kLeastStep = 1e-3, kGreatestStep = 0.1;

Tensor vector_of(const Context& ctx, const std::vector<double>& values, DType dtype) {
  const Tensor wide =
      Tensor::from<double>(ctx.memory, {static_cast<int64_t>(values.size())}, values);
  return wide.to(dtype);
}

}  // namespace

LinearGates::LinearGates(const LinearMixerOptions& options, const LinearParameterNames& names,
                         ModuleParameters& parameters)
    : options_(options) {
  const int64_t H = options.num_heads, F = options.gate_per_key ? H * options.key_size : H;
  if (options.gate != GateLaw::kNone && options.gate != GateLaw::kConstant)
    a_ = LowRankProjection(parameters, names.gate,
                           {.inputs = options.hidden_size,
                            .outputs = F,
                            .rank = options.resolved_rank(options.gate_rank),
                            .has_bias = options.gate_bias});
  if (options.gate == GateLaw::kSoftplus || options.gate == GateLaw::kBounded) {
    const Initializer rates =
        options.gate == GateLaw::kSoftplus
            ? Initializer{Initializer::Kind::kLogOfUniform, options.rate_low, options.rate_high}
            : Initializer{Initializer::Kind::kConstant, 0, 0};
    A_log_H_ = parameters.vector("A_log", H, rates, Precision::kMaster);
    dt_bias_F_ = parameters.vector("dt_bias", F,
                                   {Initializer::Kind::kInverseSoftplus, kLeastStep, kGreatestStep},
                                   Precision::kMaster);
  }
  if (options.delta_rule) beta_HE_ = parameters.matrix("b_proj", H, options.hidden_size);
}

LinearGates::Gates LinearGates::forward(Context& ctx, const Variable& x_TE) const {
  const int64_t T = x_TE.dim(0), H = options_.num_heads, K = options_.key_size;
  Gates gates;
  const Variable a_TF = a_.defined() ? a_.forward(ctx, x_TE) : Variable();
  const DecayGateInput decay{.a_TF = a_TF, .A_log_H = A_log_H_, .dt_bias_F = dt_bias_F_};
  switch (options_.gate) {
    case GateLaw::kNone:
      break;
    case GateLaw::kConstant:
      gates.log_decay =
          vector_of(ctx, options_.constant_log_decays(), accumulator_dtype(x_TE.dtype()));
      break;
    case GateLaw::kSoftplus:
      gates.log_decay = softplus_decay(ctx, decay, options_.step_limits());
      break;
    case GateLaw::kBounded:
      gates.log_decay = bounded_decay(ctx, decay, options_.gate_lower_bound);
      break;
    case GateLaw::kLogSigmoid:
      gates.log_decay = log_sigmoid_decay(ctx, a_TF, options_.gate_normalizer);
      break;
    case GateLaw::kForget: {
      const ForgetGate forget = forget_gate(ctx, a_TF, options_.resolved_forget_floor());
      gates.log_decay = forget.log_decay;
      gates.k_THK = reshape(ctx, forget.key, {T, H, K});
      break;
    }
  }
  if (options_.gate_per_key) gates.log_decay = reshape(ctx, gates.log_decay, {T, H, K});
  if (options_.step_size) gates.dt_TH = step_size(ctx, a_TF, dt_bias_F_, options_.step_limits());
  if (beta_HE_.defined())
    gates.beta_TH = write_strength(ctx, linear(ctx, x_TE, beta_HE_), options_.max_beta);
  return gates;
}

}  // namespace longship
