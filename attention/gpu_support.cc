#include "attention/gpu_support.h"

#include "attention/gpu_attention_limits.h"

namespace longship {

std::string gpu_refusal(const MixerDescriptor& mixer, DType dtype) {
  const MixerFamily family = find_mixer_backend(mixer.backend).family;
  if (family == MixerFamily::kLinear)
    return fmt::format("linear attention (`{}`) runs on the CPU only", mixer.backend);
  const LatentMixerOptions& latent = mixer.latent;
  const SoftmaxMixerOptions& softmax = mixer.softmax;
  const AttentionSizes sizes =
      family == MixerFamily::kLatent
          ? AttentionSizes{.num_heads = latent.num_heads,
                           .num_kv_heads = latent.num_heads,
                           .head_size = latent.qk_nope_head_size + latent.qk_rope_head_size,
                           .value_size = latent.v_head_size,
                           .dtype = dtype}
          : AttentionSizes{.num_heads = softmax.num_heads,
                           .num_kv_heads = softmax.num_kv_heads,
                           .head_size = softmax.head_size,
                           .value_size = softmax.head_size,
                           .dtype = dtype};
  try {
    require_gpu_attention(mixer.backend, sizes);
  } catch (const Error& error) {
    return fmt::format("a GPU takes {}, not {}", error.report().expected, error.report().found);
  }
  return {};
}

}  // namespace longship
