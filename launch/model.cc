#include "launch/model.h"

#include "launch/layers.h"
#include "parallel/replicated_parameters.h"
#include "parallel/sharded_parameters.h"

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
                               .recompute_layers = run.train().recompute_layers(),
                               .loss_chunk_tokens = run.train().loss_chunk_tokens()};
  const DType dtype = compute_dtype(run);
  const uint64_t seed = run.train().seed();
  Model made{.parameters = run.parallel().zero() == config::Parallel::NONE
                               ? ParameterList(ctx, dtype, seed)
                               : ParameterList::without_values(ctx, dtype, seed),
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

std::unique_ptr<ParameterExchange> make_parameter_exchange(Context& ctx, const config::Run& run,
                                                           Model& model, const Group& world) {
  const std::vector<size_t>& units = model.transformer->unit_begins();
  std::unique_ptr<ParameterExchange> exchange;
  if (run.parallel().zero() == config::Parallel::NONE) {
    exchange = std::make_unique<ReplicatedParameters>(ctx, model.parameters, units, world);
  } else {
    // The numbers of stages are those of the paper, here as there.
    const auto stage = static_cast<ZeroStage>(run.parallel().zero());
    exchange = std::make_unique<ShardedParameters>(ctx, model.parameters, units, world, stage);
  }
  model.transformer->set_parameter_use(exchange.get());
  return exchange;
}

}  // namespace longship
