#include "launch/layer_summary.h"

#include "launch/layers.h"

namespace longship {
namespace {

std::string rope_text(double theta) {
  return theta == 0 ? "no positions" : fmt::format("rope theta {:g}", theta);
}

// What differs from the causal mask.
std::string mask_text(const SoftmaxMixerOptions& options) {
  std::string text;
  if (options.window > 0) text += fmt::format(", window {}", options.window);
  if (!options.causal) text += ", bidirectional";
  if (options.num_sink_tokens > 0) text += fmt::format(", {} sink tokens", options.num_sink_tokens);
  if (options.sink_logits) text += ", sink logits";
  if (options.anchor) text += ", anchor";
  return text;
}

std::string sizes(const MixerDescriptor& mixer) {
  switch (find_mixer_backend(mixer.backend).family) {
    case MixerFamily::kSoftmax:
      return fmt::format("{} query and {} KV heads of {}, {}{}", mixer.softmax.num_heads,
                         mixer.softmax.num_kv_heads, mixer.softmax.head_size,
                         rope_text(mixer.softmax.rope_theta), mask_text(mixer.softmax));
    case MixerFamily::kLatent:
      return fmt::format("{} heads of {} + {} and {}, latent of {}, {}", mixer.latent.num_heads,
                         mixer.latent.qk_nope_head_size, mixer.latent.qk_rope_head_size,
                         mixer.latent.v_head_size, mixer.latent.kv_lora_rank,
                         rope_text(mixer.latent.rope_theta));
    case MixerFamily::kLinear:
      return fmt::format("{} key and {} value heads, states of {} x {}", mixer.linear.key_heads(),
                         mixer.linear.num_heads, mixer.linear.kernel_key_size(),
                         mixer.linear.value_size);
  }
  LONGSHIP_CHECK(false, "backend {}", mixer.backend);
}

std::string mixer_names(const ConfiguredLayers& layers, int64_t layer) {
  std::vector<std::string_view> names;
  for (size_t index : layers.mixers_of(layer)) names.push_back(layers.mixers[index].name);
  return fmt::format("{}", fmt::join(names, " + "));
}

int64_t mixer_parameters(Context& ctx, MixerDescriptor mixer) {
  mixer.strategy = "local";  // which has no say in the shapes
  ParameterList parameters = ParameterList::without_values(ctx);
  make_mixer_factory({mixer}, Group::self(), Layout::kContiguous)(0, "layer", parameters);
  return parameters.num_elements();
}

// Parameters of a kind, of which each of so many layers has some.
struct ParameterCount {
  std::string name;
  int64_t each;
  int64_t times;

  int64_t sum() const { return each * times; }
  std::string line() const {
    return times == 1 ? fmt::format("{:<16} {:>16}", name, each)
                      : fmt::format("{:<16} {:>16} = {} x {}", name, sum(), times, each);
  }
};

std::vector<ParameterCount> parameter_counts(Context& ctx, const config::Run& run) {
  const config::Model& model = run.model();
  const int64_t hidden = model.hidden_size();
  std::vector<ParameterCount> counts = {
      {model.tied_embeddings() ? "embedding = head" : "embedding, head",
       model.vocab_size() * hidden * (model.tied_embeddings() ? 1 : 2), 1}};
  for (const ConfiguredMixer& mixer : good_layers(run).mixers)
    counts.push_back({mixer.name, mixer_parameters(ctx, mixer.descriptor), mixer.num_layers});
  counts.push_back({"mlp", 3 * hidden * model.intermediate_size(), model.num_layers()});
  counts.push_back({"norms", (2 * model.num_layers() + 1) * hidden, 1});
  return counts;
}

}  // namespace

std::vector<std::string> mixer_lines(const config::Run& run) {
  std::vector<std::string> lines;
  for (const ConfiguredMixer& mixer : good_layers(run).mixers)
    lines.push_back(fmt::format("{} x {}{}: {}; {}", mixer.num_layers, mixer.name,
                                mixer.name == mixer.descriptor.backend
                                    ? ""
                                    : fmt::format(" ({})", mixer.descriptor.backend),
                                sizes(mixer.descriptor), mixer.descriptor.strategy));
  return lines;
}

std::string layer_ranges(const config::Run& run) {
  const ConfiguredLayers layers = good_layers(run);
  const int64_t num_layers = run.model().num_layers();
  std::vector<std::string> ranges;
  for (int64_t begin = 0, end = 0; begin < num_layers; begin = end) {
    const std::string names = mixer_names(layers, begin);
    for (end = begin + 1; end < num_layers && mixer_names(layers, end) == names;) ++end;
    ranges.push_back(end == begin + 1 ? fmt::format("{} {}", begin, names)
                                      : fmt::format("{}-{} {}", begin, end - 1, names));
  }
  return fmt::format("{}", fmt::join(ranges, ", "));
}

int64_t count_parameters(Context& ctx, const config::Run& run) {
  int64_t sum = 0;
  for (const ParameterCount& count : parameter_counts(ctx, run)) sum += count.sum();
  return sum;
}

std::vector<std::string> parameter_lines(Context& ctx, const config::Run& run) {
  std::vector<std::string> lines;
  for (const ParameterCount& count : parameter_counts(ctx, run)) lines.push_back(count.line());
  lines.push_back(ParameterCount{"all", count_parameters(ctx, run), 1}.line());
  if (run.model().vocab_size() == 0)
    lines.push_back("without the embedding, as model.vocab_size comes from the tokens");
  return lines;
}

}  // namespace longship
