#include "runtime/model/decoder_block.h"

#include "runtime/ops/add.h"
#include "runtime/ops/rms_norm.h"

namespace longship {
namespace {

std::string layer_prefix(int64_t layer) {
  return fmt::format("model.layers.{}", layer);
}

Variable add_norm(const TransformerShape& shape, const std::string& name,
                  ParameterList& parameters) {
  const Initializer one{.kind = Initializer::Kind::kConstant, .a = 1.0};
  return parameters.add(name, {shape.hidden_size}, one, /*decay=*/false);
}

}  // namespace

// Members are initialised in the order in which the parameters are registered.
DecoderBlock::DecoderBlock(const TransformerShape& shape, int64_t layer,
                           const MixerFactory& make_mixer, ParameterList& parameters)
    : norm_eps_(shape.norm_eps),
      mixer_norm_E_(add_norm(shape, layer_prefix(layer) + ".input_layernorm.weight", parameters)),
      mixer_(make_mixer(layer, layer_prefix(layer), parameters)),
      mlp_norm_E_(
          add_norm(shape, layer_prefix(layer) + ".post_attention_layernorm.weight", parameters)),
      mlp_(shape, layer_prefix(layer) + ".mlp", parameters) {
  LONGSHIP_CHECK(mixer_ != nullptr, "layer {} has no mixer", layer);
}

Variable DecoderBlock::forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan) const {
  auto mix = [&](const Variable& x) {
    Scope scope(ctx, "mixer");
    return mixer_->forward(ctx, rms_norm(ctx, x, mixer_norm_E_, norm_eps_), plan);
  };
  auto mlp = [&](const Variable& h) {
    Scope scope(ctx, "mlp");
    return mlp_.forward(ctx, rms_norm(ctx, h, mlp_norm_E_, norm_eps_));
  };
  const Variable h_TE = add(ctx, x_TE, mix(x_TE));
  return add(ctx, h_TE, mlp(h_TE));
}

}  // namespace longship
