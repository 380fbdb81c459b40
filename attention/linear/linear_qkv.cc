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
              .conv_C1W = {},
              .conv_bias_C = {},
              .norm_K = {},
              .silu = silu};
    const std::string conv = initial + "_conv1d";
    if (options.conv_size > 0)
      role.conv_C1W = parameters.convolution(conv, channels, options.conv_size);
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

std::vector<Variable> LinearQkv::projected(Context& ctx, const std::vector<const Role*>& roles,
                                           const Variable& x_TE, const SequencePlan& plan,
                                           const Group& sp) const {
  std::vector<Variable> y_TC;
  for (const Role* role : roles) y_TC.push_back(linear(ctx, x_TE, role->weight_CE));
  if (options_.conv_size == 0) {
    for (size_t i = 0; i < roles.size(); ++i)
      if (roles[i]->silu) y_TC[i] = silu(ctx, y_TC[i]);
    return y_TC;
  }
  std::vector<ShortConvolutionInput> inputs;
  for (size_t i = 0; i < roles.size(); ++i) {
    const Variable& conv_C1W = roles[i]->conv_C1W;
    inputs.push_back({.x_TC = y_TC[i],
                      .weight_CW = reshape(ctx, conv_C1W, {conv_C1W.dim(0), conv_C1W.dim(2)}),
                      .bias_C = roles[i]->conv_bias_C,
                      .silu = roles[i]->silu});
  }
  return short_convolution(ctx, sp, inputs, plan);
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
  const bool has_keys = k_.weight_CE.defined();
  const std::vector<Variable> y_TC =
      projected(ctx, has_keys ? std::vector{&q_, &k_, &v_} : std::vector{&q_, &v_}, x_TE, plan, sp);
  auto key_side = [&](const Role& role, const Variable& y) {
    return query_or_key(ctx, role, reshape(ctx, y, {T, G, K}), plan, rope_angles);
  };
  Heads heads;
  heads.q_TGK = key_side(q_, y_TC.front());
  if (has_keys) heads.k_TGK = key_side(k_, y_TC[1]);
  heads.v_THV = reshape(ctx, y_TC.back(), {T, options_.num_heads, options_.value_size});
  return heads;
}

}  // namespace longship
