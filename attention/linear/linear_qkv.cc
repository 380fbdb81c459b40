#include "attention/linear/linear_qkv.h"

#include "attention/linear/short_convolution.h"
#include "attention/linear/taylor_map.h"
#include "runtime/ops/l2_norm.h"
#include "runtime/ops/linear.h"
#include "runtime/ops/reshape.h"
#include "runtime/ops/rms_norm.h"
#include "runtime/ops/silu.h"

namespace longship {
namespace {

constexpr double kL2NormEps = 1e-6;  // of all published models

}  // namespace

LinearQkv::LinearQkv(const LinearMixerOptions& options, const LinearParameterNames& names,
                     ModuleParameters& parameters)
    : options_(options) {
  auto make = [&](const std::string& initial, int64_t channels, bool silu) {
    Role role{.weight_CE = parameters.matrix(initial + "_proj", channels, options.hidden_size),
              .conv_CW = {},
              .conv_bias_C = {},
              .norm_K = {},
              .silu = silu};
    const std::string conv = initial + "_conv1d";
    if (options.conv_size > 0)
      role.conv_CW = parameters.convolution(conv, channels, options.conv_size);
    if (options.conv_bias)
      role.conv_bias_C = parameters.convolution_bias(conv, channels, options.conv_size);
    return role;
  };
  const int64_t key_channels = options.key_heads() * options.key_size;
  q_ = make(names.q, key_channels, options.silu_qk);
  if (options.gate != GateLaw::kForget) k_ = make(names.k, key_channels, options.silu_qk);
  v_ = make(names.v, options.num_heads * options.value_size, options.silu_v);
  if (options.qk_norm == QkNorm::kRms) {
    q_.norm_K = parameters.norm(names.q + "_norm", options.key_size);
    k_.norm_K = parameters.norm(names.k + "_norm", options.key_size);
  }
}

Variable LinearQkv::projected(Context& ctx, const Role& role, const Variable& x_TE,
                              const SequencePlan& plan, const Group& sp) const {
  const Variable y_TC = linear(ctx, x_TE, role.weight_CE);
  if (role.conv_CW.defined())
    return short_convolution(
        ctx, sp,
        {.x_TC = y_TC,
         .weight_CW = reshape(ctx, role.conv_CW, {role.conv_CW.dim(0), role.conv_CW.dim(2)}),
         .bias_C = role.conv_bias_C,
         .silu = role.silu},
        plan);
  return role.silu ? silu(ctx, y_TC) : y_TC;
}

Variable LinearQkv::query_or_key(Context& ctx, const Role& role, const Variable& heads_TGK,
                                 const SequencePlan& plan, SharedRopeAngles& rope_angles) const {
  Variable x_TGK = heads_TGK;
  switch (options_.qk_norm) {
    case QkNorm::kNone:
      break;
    case QkNorm::kL2:
      x_TGK = l2_norm(ctx, x_TGK, kL2NormEps);
      break;
    case QkNorm::kRms:
      x_TGK = rms_norm(ctx, x_TGK, role.norm_K, options_.norm_eps);
      break;
  }
  if (options_.rope_theta > 0) {
    const int64_t rotary_dim = options_.rotary_dim == 0 ? options_.key_size : options_.rotary_dim;
    x_TGK = rope(ctx, x_TGK,
                 rope_angles.get(ctx, plan, rotary_dim, options_.rope_theta,
                                 accumulator_dtype(x_TGK.dtype())));
  }
  return options_.taylor_map ? taylor_map(ctx, x_TGK) : x_TGK;
}

LinearQkv::Heads LinearQkv::forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                                    const Group& sp, SharedRopeAngles& rope_angles) const {
  const int64_t T = x_TE.dim(0), G = options_.key_heads(), K = options_.key_size;
  auto key_side = [&](const Role& role) {
    const Variable heads_TGK = reshape(ctx, projected(ctx, role, x_TE, plan, sp), {T, G, K});
    return query_or_key(ctx, role, heads_TGK, plan, rope_angles);
  };
  Heads heads;
  heads.q_TGK = key_side(q_);
  if (k_.weight_CE.defined()) heads.k_TGK = key_side(k_);
  heads.v_THV = reshape(ctx, projected(ctx, v_, x_TE, plan, sp),
                        {T, options_.num_heads, options_.value_size});
  return heads;
}

}  // namespace longship
