#include "attention/latent_mixer.h"

#include <array>
#include <cmath>

#include "attention/module_parameters.h"
#include "runtime/ops/linear.h"
#include "runtime/ops/reshape.h"
#include "runtime/ops/rms_norm.h"
#include "runtime/ops/split.h"
#include "runtime/problems.h"

namespace longship {

std::vector<std::string> LatentMixerOptions::problems() const {
  Problems problems;
  problems.require(hidden_size > 0, "hidden_size {} is not positive", hidden_size);
  problems.require(num_heads > 0, "num_heads {} is not positive", num_heads);
  problems.require(q_lora_rank >= 0, "q_lora_rank {} is negative", q_lora_rank);
  problems.require(kv_lora_rank > 0, "kv_lora_rank {} is not positive", kv_lora_rank);
  problems.require(qk_nope_head_size > 0, "qk_nope_head_size {} is not positive",
                   qk_nope_head_size);
  problems.require(qk_rope_head_size > 0 && (rope_theta == 0 || qk_rope_head_size % 2 == 0),
                   "qk_rope_head_size {} is not a positive{} number", qk_rope_head_size,
                   rope_theta == 0 ? "" : " even");
  problems.require(v_head_size > 0, "v_head_size {} is not positive", v_head_size);
  problems.require(rope_theta >= 0 && std::isfinite(rope_theta),
                   "rope_theta {} is neither 0 nor positive", rope_theta);
  problems.require(norm_eps > 0, "norm_eps {} is not positive", norm_eps);
  problems.require(init_std >= 0, "init_std {} is negative", init_std);
  problems.require(num_layers > 0, "num_layers {} is not positive", num_layers);
  return problems.take();
}

LatentMixer::LatentMixer(const LatentMixerOptions& options, const std::string& prefix,
                         ParameterList& parameters, std::shared_ptr<const LatentSchedule> schedule,
                         std::shared_ptr<SharedRopeAngles> rope_angles)
    : options_(options), schedule_(std::move(schedule)), rope_angles_(std::move(rope_angles)) {
  const std::string self_attn = prefix + ".self_attn";
  if (const auto problems = options.problems(); !problems.empty())
    throw Error(ErrorCode::kConfig, {.what = fmt::format("latent attention {}", self_attn),
                                     .found = fmt::format("{}", fmt::join(problems, "; ")),
                                     .next = "correct these options of the model's attention"});
  ModuleParameters module(parameters, self_attn, options.init_std, options.num_layers);
  const int64_t E = options.hidden_size, H = options.num_heads, C = options.kv_lora_rank;
  const int64_t N = options.qk_nope_head_size, R = options.qk_rope_head_size;
  const int64_t V = options.v_head_size;
  if (options.q_lora_rank == 0) {
    q_OE_ = module.matrix("q_proj", H * (N + R), E);
  } else {
    q_a_QE_ = module.matrix("q_a_proj", options.q_lora_rank, E);
    q_a_norm_Q_ = module.norm("q_a_layernorm", options.q_lora_rank);
    q_b_OQ_ = module.matrix("q_b_proj", H * (N + R), options.q_lora_rank);
  }
  kv_a_LE_ = module.matrix("kv_a_proj_with_mqa", C + R, E);
  kv_a_norm_C_ = module.norm("kv_a_layernorm", C);
  kv_b_OC_ = module.matrix("kv_b_proj", H * (N + V), C);
  o_EO_ = module.residual_matrix("o_proj", E, H * V);
}

Variable LatentMixer::turned(Context& ctx, const Variable& x_THX, int64_t first,
                             const SequencePlan& plan) const {
  if (options_.rope_theta == 0) return x_THX;
  return rope(ctx, x_THX,
              rope_angles_->get(ctx, plan, options_.qk_rope_head_size, options_.rope_theta,
                                accumulator_dtype(x_THX.dtype())),
              first);
}

Variable LatentMixer::queries(Context& ctx, const Variable& x_TE, const SequencePlan& plan) const {
  Variable q_TO;
  if (options_.q_lora_rank == 0) {
    q_TO = linear(ctx, x_TE, q_OE_);
  } else {
    const Variable compressed_TQ =
        rms_norm(ctx, linear(ctx, x_TE, q_a_QE_), q_a_norm_Q_, options_.norm_eps);
    q_TO = linear(ctx, compressed_TQ, q_b_OQ_);
  }
  const int64_t D = options_.qk_nope_head_size + options_.qk_rope_head_size;
  const Variable q_THD = reshape(ctx, q_TO, {x_TE.dim(0), options_.num_heads, D});
  return turned(ctx, q_THD, options_.qk_nope_head_size, plan);
}

Variable LatentMixer::latent(Context& ctx, const Variable& x_TE, const SequencePlan& plan) const {
  const int64_t T = x_TE.dim(0), R = options_.qk_rope_head_size;
  const std::array sizes = {options_.kv_lora_rank, R};
  const std::vector<Variable> parts = split(ctx, linear(ctx, x_TE, kv_a_LE_), sizes);
  const Variable shared_T1R = turned(ctx, reshape(ctx, parts[1], {T, 1, R}), 0, plan);
  return join(ctx, {rms_norm(ctx, parts[0], kv_a_norm_C_, options_.norm_eps),
                    reshape(ctx, shared_T1R, {T, R})});
}

Variable LatentMixer::forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                              const Variable& residual_TE) {
  const int64_t D = options_.qk_nope_head_size + options_.qk_rope_head_size;
  const Variable o_THV = schedule_->attend(ctx,
                                           {.q_THD = queries(ctx, x_TE, plan),
                                            .latent_TL = latent(ctx, x_TE, plan),
                                            .expand_OC = kv_b_OC_,
                                            .scale = 1 / std::sqrt(static_cast<double>(D))},
                                           plan);
  const int64_t size = options_.num_heads * options_.v_head_size;
  return linear_add(ctx, residual_TE, reshape(ctx, o_THV, {x_TE.dim(0), size}), o_EO_);
}

}  // namespace longship
