#include "launch/model.h"

#include "launch/layers.h"

namespace longship {

namespace {

Recompute recompute_of(const config::Train& train) {
  return train.recompute() == config::Train::BLOCK       ? Recompute::kBlock
         : train.recompute() == config::Train::SELECTIVE ? Recompute::kSelective
                                                         : Recompute::kNone;
}

}  // namespace

DType compute_dtype(const config::Run& run) {
  return run.train().precision() == config::Train::BF16 ? DType::kBF16 : DType::kF32;
}

Model make_model(Context& ctx, const config::Run& run, const Group& sp) {
  const config::Model& model = run.model();
  const TransformerShape shape{.vocab_size = model.vocab_size(),
                               .hidden_size = model.hidden_size(),
                               .intermediate_size = model.intermediate_size(),
                               .num_layers = model.num_layers(),
                               .norm_eps = model.norm_eps(),
                               .zero_centered_norms = model.zero_centered_norms(),
                               .norm_after = norm_after_of(run),
                               .init_std = model.init_std(),
                               .tied_embeddings = model.tied_embeddings(),
                               .recompute = recompute_of(run.train()),
                               .loss_chunk_tokens = run.train().loss_chunk_tokens()};
  Model made{.parameters = ParameterList(ctx, compute_dtype(run), run.train().seed()),
             .transformer = nullptr};
  const AttentionTarget target{.device = ctx.memory->device().kind,
                               .deterministic = ctx.deterministic};
  made.transformer = std::make_unique<Transformer>(
      shape, make_mixer_factory(layer_descriptors(run), sp, layout_of(run), target),
      made.parameters);
  if (run.optim().decay_all())
    for (Parameter& parameter : made.parameters.all()) parameter.decay = true;
  return made;
}

}  // namespace longship
