#include "launch/step_flops.h"

#include "launch/layers.h"
#include "parallel/visible_pairs.h"

namespace longship {
namespace {

// Weights that tokens are multiplied with.
int64_t num_active_weights(const Model& model) {
  int64_t count = model.parameters.num_elements();
  if (!model.transformer->shape().tied_embeddings)
    count -= num_elements(model.parameters.find("model.embed_tokens.weight")->shape());
  return count;
}

double attention_flops(const MixerDescriptor& mixer, const SequencePlan& plan) {
  auto product = [](auto... sizes) { return (static_cast<double>(sizes) * ...); };
  auto pairs = [&](const MaskRule& rule) {
    return static_cast<double>(num_visible_pairs(plan, rule));
  };
  switch (find_mixer_backend(mixer.backend).family) {
    case MixerFamily::kSoftmax: {
      const SoftmaxMixerOptions& o = mixer.softmax;
      const MaskRule rule{o.causal, o.window, o.num_sink_tokens, o.anchor};
      return product(6, 2 * o.head_size, o.num_heads) * pairs(rule);
    }
    case MixerFamily::kLatent: {
      const LatentMixerOptions& o = mixer.latent;
      const int64_t sizes = o.qk_nope_head_size + o.qk_rope_head_size + o.v_head_size;
      return product(6, sizes, o.num_heads) * pairs(MaskRule{});
    }
    case MixerFamily::kLinear: {
      const LinearMixerOptions& o = mixer.linear;
      const int64_t per_entry = o.delta_rule ? 18 : 12;
      return product(per_entry, o.key_size, o.value_size, o.num_heads, plan.num_tokens());
    }
  }
  LONGSHIP_CHECK(false, "backend {}", mixer.backend);
}

}  // namespace

double step_flops(const config::Run& run, const Model& model,
                  std::span<const Batch> micro_batches) {
  const std::vector<LayerDescriptor> layers = layer_descriptors(run);
  const double weights = static_cast<double>(num_active_weights(model));
  double flops = 0;
  for (const Batch& batch : micro_batches) {
    flops += 6 * weights * static_cast<double>(batch.plan.num_tokens());
    for (const LayerDescriptor& layer : layers)
      for (const MixerDescriptor& mixer : layer.mixers) flops += attention_flops(mixer, batch.plan);
  }
  return flops;
}

}  // namespace longship
