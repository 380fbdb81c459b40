#include "runtime/model/decoder_block.h"

#include "runtime/ops/add.h"

namespace longship {
namespace {

std::string layer_prefix(int64_t layer) {
  return fmt::format("model.layers.{}", layer);
}

}  // namespace

// Members are initialised in the order in which the parameters are registered.
DecoderBlock::DecoderBlock(const TransformerShape& shape, int64_t layer,
                           const MixerFactory& make_mixer, ParameterList& parameters)
    : norm_after_(shape.has_norm_after(layer)),
      mixer_norm_(
          parameters,
          layer_prefix(layer) + (norm_after_ ? ".post_attention_layernorm" : ".input_layernorm"),
          shape.hidden_size, shape.norm_style()),
      mixer_(make_mixer(layer, layer_prefix(layer), parameters)),
      mlp_norm_(parameters,
                layer_prefix(layer) +
                    (norm_after_ ? ".post_feedforward_layernorm" : ".post_attention_layernorm"),
                shape.hidden_size, shape.norm_style()),
      mlp_(shape, layer_prefix(layer) + ".mlp", parameters) {
  LONGSHIP_CHECK(mixer_ != nullptr, "layer {} has no mixer", layer);
}

Variable DecoderBlock::forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan) const {
  // With the norm before, the last product of a branch adds x.
  auto branch = [&](const char* name, const Variable& x, const Norm& norm, const auto& module) {
    Scope scope(ctx, name);
    return norm_after_ ? add(ctx, x, norm.forward(ctx, module(x, Variable())))
                       : module(norm.forward(ctx, x), x);
  };
  auto mix = [&](const Variable& x, const Variable& residual) {
    return mixer_->forward(ctx, x, plan, residual);
  };
  auto mlp = [&](const Variable& h, const Variable& residual) {
    return mlp_.forward(ctx, h, residual);
  };
  const Variable h_TE = branch("mixer", x_TE, mixer_norm_, mix);
  return branch("mlp", h_TE, mlp_norm_, mlp);
}

}  // namespace longship
