#include "attention/linear/linear_output.h"

#include "runtime/ops/gated_rms_norm.h"
#include "runtime/ops/linear.h"
#include "runtime/ops/reshape.h"
#include "runtime/ops/rms_norm.h"
#include "runtime/ops/sigmoid_gate.h"
#include "runtime/ops/swiglu.h"

namespace longship {

LinearOutput::LinearOutput(const LinearMixerOptions& options, const LinearParameterNames& names,
                           ModuleParameters& parameters)
    : options_(options) {
  const int64_t V = options.value_size, O = options.num_heads * V;
  if (options.output_gate != OutputGate::kNone)
    gate_ = LowRankProjection(parameters, names.output_gate,
                              {.inputs = options.hidden_size,
                               .outputs = O,
                               .rank = options.resolved_rank(options.output_gate_rank),
                               .has_bias = options.output_gate_bias});
  if (options.output_norm != OutputNorm::kNone)
    norm_F_ = parameters.norm(names.norm, options.output_norm == OutputNorm::kHead ? V : O);
  weight_EO_ = parameters.residual_matrix(names.output, options.hidden_size, O);
}

Variable LinearOutput::normed_and_gated(Context& ctx, const Variable& o_THV,
                                        const Variable& x_TE) const {
  const int64_t T = o_THV.dim(0), H = options_.num_heads, V = options_.value_size;
  const int64_t num_groups = options_.output_norm == OutputNorm::kGroup ? options_.key_heads() : 1;
  // What is normed lies in the last dimension: a head, or groups of all heads.
  Shape shape = {T, H * V};
  if (options_.output_norm == OutputNorm::kHead) shape = {T, H, V};
  const int64_t group_size = shape.back() / num_groups;
  const Variable o = reshape(ctx, o_THV, shape);
  if (!gate_.defined()) return norm_F_.defined() ? rms_norm(ctx, o, norm_F_, options_.norm_eps) : o;
  const Variable z = reshape(ctx, gate_.forward(ctx, x_TE), shape);
  const bool is_silu = options_.output_gate == OutputGate::kSilu;
  if (!norm_F_.defined()) return is_silu ? swiglu(ctx, z, o) : sigmoid_gate(ctx, o, z);
  return gated_rms_norm(ctx, o, z, norm_F_,
                        {.eps = options_.norm_eps,
                         .activation = is_silu ? GateActivation::kSilu : GateActivation::kSigmoid,
                         .norm_before_gate = options_.norm_before_gate,
                         .group_size = group_size});
}

Variable LinearOutput::forward(Context& ctx, const Variable& o_THV, const Variable& x_TE,
                               const Variable& residual_TE) const {
  const Variable o_TO = reshape(ctx, normed_and_gated(ctx, o_THV, x_TE),
                                {o_THV.dim(0), options_.num_heads * options_.value_size});
  return linear_add(ctx, residual_TE, o_TO, weight_EO_);
}

}  // namespace longship
