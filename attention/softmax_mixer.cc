#include "attention/softmax_mixer.h"

#include <cmath>

#include "attention/module_parameters.h"
#include "runtime/ops/linear.h"
#include "runtime/ops/reshape.h"
#include "runtime/ops/sigmoid_gate.h"
#include "runtime/ops/split.h"
#include "runtime/problems.h"

namespace longship {

std::vector<std::string> SoftmaxMixerOptions::problems() const {
  Problems problems;
  problems.require(hidden_size > 0, "hidden_size {} is not positive", hidden_size);
  problems.require(num_heads > 0, "num_heads {} is not positive", num_heads);
  problems.require(head_size > 0, "head_size {} is not positive", head_size);
  problems.require(num_kv_heads > 0 && num_heads % num_kv_heads == 0,
                   "num_kv_heads {} does not divide num_heads {}", num_kv_heads, num_heads);
  problems.require(qk_norm || !qk_norm_across_heads,
                   "qk_norm_across_heads has no effect without qk_norm");
  problems.require(norm_eps > 0, "norm_eps {} is not positive", norm_eps);
  problems.require(rope_theta >= 0 && std::isfinite(rope_theta),
                   "rope_theta {} is neither 0 nor positive", rope_theta);
  const int64_t rotated = rotary_dim == 0 ? head_size : rotary_dim;
  problems.require(rope_theta == 0 || (rotated > 0 && rotated <= head_size && rotated % 2 == 0),
                   "rotary_dim {} is not an even number up to head_size {}", rotated, head_size);
  problems.require(window >= 0, "window {} is negative", window);
  problems.require(num_sink_tokens >= 0, "num_sink_tokens {} is negative", num_sink_tokens);
  problems.require(num_sink_tokens <= 0 || window > 0,
                   "num_sink_tokens {} has no effect without a window", num_sink_tokens);
  problems.require(init_std >= 0, "init_std {} is negative", init_std);
  problems.require(num_layers > 0, "num_layers {} is not positive", num_layers);
  return problems.take();
}

SoftmaxMixer::SoftmaxMixer(const SoftmaxMixerOptions& options, const std::string& prefix,
                           ParameterList& parameters,
                           std::shared_ptr<const SoftmaxSchedule> schedule,
                           std::shared_ptr<SharedRopeAngles> rope_angles)
    : options_(options), schedule_(std::move(schedule)), rope_angles_(std::move(rope_angles)) {
  const std::string self_attn = prefix + ".self_attn";
  if (const auto problems = options.problems(); !problems.empty())
    throw Error(ErrorCode::kConfig, {.what = fmt::format("softmax attention {}", self_attn),
                                     .found = fmt::format("{}", fmt::join(problems, "; ")),
                                     .next = "correct these options of the model's attention"});
  ModuleParameters module(parameters, self_attn, options.init_std, options.num_layers);
  auto project = [&](const std::string& name, int64_t outputs) {
    Projection made;
    made.weight_OI = module.matrix(name, outputs, options.hidden_size);
    if (options.qkv_bias) made.bias_O = module.bias(name, outputs);
    return made;
  };
  auto norm = [&](const std::string& name, int64_t num_heads) {
    return Norm(parameters, self_attn + "." + name,
                options.head_size * (options.qk_norm_across_heads ? num_heads : 1),
                {.eps = options.norm_eps, .zero_centered = options.zero_centered_norms});
  };
  const int64_t q_size = options.num_heads * options.head_size;
  const int64_t kv_size = options.num_kv_heads * options.head_size;
  q_ = project("q_proj", options.output_gate ? 2 * q_size : q_size);
  k_ = project("k_proj", kv_size);
  v_ = project("v_proj", kv_size);
  o_.weight_OI = module.residual_matrix("o_proj", options.hidden_size, q_size);
  if (options.output_bias) o_.bias_O = module.bias("o_proj", options.hidden_size);
  if (options.qk_norm) {
    q_norm_ = norm("q_norm", options.num_heads);
    k_norm_ = norm("k_norm", options.num_kv_heads);
  }
  if (options.sink_logits)
    sinks_H_ =
        module.vector("sinks", options.num_heads, {.a = options.init_std}, Precision::kMaster);
}

Variable SoftmaxMixer::heads(Context& ctx, const Variable& x_TE, const Projection& projection,
                             int64_t size) const {
  return reshape(ctx, linear(ctx, x_TE, projection.weight_OI, projection.bias_O),
                 {x_TE.dim(0), projection.weight_OI.dim(0) / size, size});
}

Variable SoftmaxMixer::turned(Context& ctx, Variable heads_THD, const Norm& norm,
                              const SequencePlan& plan) const {
  if (norm.defined()) {
    const Shape shape = heads_THD.shape();
    if (options_.qk_norm_across_heads)
      heads_THD = reshape(ctx, heads_THD, {shape[0], shape[1] * shape[2]});
    heads_THD = reshape(ctx, norm.forward(ctx, heads_THD), shape);
  }
  if (options_.rope_theta == 0) return heads_THD;
  const int64_t rotary_dim = options_.rotary_dim == 0 ? options_.head_size : options_.rotary_dim;
  return rope(ctx, heads_THD,
              rope_angles_->get(ctx, plan, rotary_dim, options_.rope_theta,
                                accumulator_dtype(heads_THD.dtype())));
}

Variable SoftmaxMixer::forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                               const Variable& residual_TE) {
  const int64_t T = x_TE.dim(0), D = options_.head_size;
  Variable gate_THD;
  const AttentionSources sources = {
      .shape = {.num_tokens = T,
                .num_heads = options_.num_heads,
                .num_kv_heads = options_.num_kv_heads,
                .head_size = D,
                .value_size = D,
                .dtype = x_TE.dtype(),
                .accumulator = accumulator_dtype(x_TE.dtype())},
      .q_THD =
          [&](Context& c) {
            Variable q_THD = heads(c, x_TE, q_, options_.output_gate ? 2 * D : D);
            if (options_.output_gate) {
              const int64_t sizes[] = {D, D};
              std::vector<Variable> parts = split(c, q_THD, sizes);
              q_THD = std::move(parts[0]);
              gate_THD = std::move(parts[1]);
            }
            return turned(c, std::move(q_THD), q_norm_, plan);
          },
      .k_TKD = [&](Context& c) { return turned(c, heads(c, x_TE, k_, D), k_norm_, plan); },
      .v_TKV = [&](Context& c) { return heads(c, x_TE, v_, D); }};
  Variable o_THD = schedule_->attend_when_ready(ctx, sources, plan,
                                                {.scale = 1 / std::sqrt(static_cast<double>(D)),
                                                 .window = options_.window,
                                                 .causal = options_.causal,
                                                 .num_sink_tokens = options_.num_sink_tokens,
                                                 .anchor = options_.anchor,
                                                 .sink_logit_H = sinks_H_});
  if (options_.output_gate) o_THD = sigmoid_gate(ctx, o_THD, gate_THD);
  return linear_add(ctx, residual_TE, reshape(ctx, o_THD, {T, options_.num_heads * D}),
                    o_.weight_OI, o_.bias_O);
}

}  // namespace longship
