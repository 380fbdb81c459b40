#include "launch/model.h"

#include "attention/registry.h"

namespace longship {
namespace {

MixerDescriptor mixer_descriptor(const config::Run& run) {
  const config::Model& model = run.model();
  const config::Attention& attention = model.attention();
  MixerDescriptor descriptor;
  descriptor.backend = "full";
  descriptor.strategy = run.parallel().strategy();
  descriptor.softmax = {.hidden_size = model.hidden_size(),
                        .num_heads = attention.num_heads(),
                        .num_kv_heads = attention.num_kv_heads(),
                        .head_size = attention.head_size(),
                        .qkv_bias = attention.qkv_bias(),
                        .output_bias = attention.output_bias(),
                        .qk_norm = attention.qk_norm(),
                        .norm_eps = model.norm_eps(),
                        .rope_theta = attention.rope_theta(),
                        .rotary_dim = attention.rotary_dim(),
                        .window = attention.window(),
                        .init_std = model.init_std(),
                        .num_layers = model.num_layers()};
  return descriptor;
}

}  // namespace

Layout layout_of(const config::Run& run) {
  return run.parallel().layout() == config::Parallel::ZIGZAG ? Layout::kZigzag
                                                             : Layout::kContiguous;
}

Model make_model(Context& ctx, const config::Run& run, const Group& sp) {
  const config::Model& model = run.model();
  const TransformerShape shape{.vocab_size = model.vocab_size(),
                               .hidden_size = model.hidden_size(),
                               .intermediate_size = model.intermediate_size(),
                               .num_layers = model.num_layers(),
                               .norm_eps = model.norm_eps(),
                               .init_std = model.init_std(),
                               .tied_embeddings = model.tied_embeddings(),
                               .recompute = run.train().recompute(),
                               .loss_chunk_tokens = run.train().loss_chunk_tokens()};
  const DType compute = run.train().precision() == config::Train::BF16 ? DType::kBF16 : DType::kF32;
  const std::vector<MixerDescriptor> layers(static_cast<size_t>(model.num_layers()),
                                            mixer_descriptor(run));
  Model made{.parameters = ParameterList(ctx, compute, run.train().seed()), .transformer = nullptr};
  made.transformer = std::make_unique<Transformer>(
      shape, make_mixer_factory(layers, sp, layout_of(run)), made.parameters);
  if (run.optim().decay_all())
    for (Parameter& parameter : made.parameters.all()) parameter.decay = true;
  return made;
}

}  // namespace longship
