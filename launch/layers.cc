#include "launch/layers.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "attention/named_entry.h"
#include "launch/layer_pattern.h"
#include "launch/mixer_options.h"

namespace longship {
namespace {

// Largest count or size in a block: products of three stay far inside 64 bits.
constexpr int64_t kLargestSize = 1 << 20;
constexpr int64_t kLongestWindow = int64_t{1} << 40;

void check_sizes(const google::protobuf::Message& block, const std::string& where,
                 std::vector<std::string>& problems) {
  using google::protobuf::FieldDescriptor;
  std::vector<const FieldDescriptor*> fields;
  block.GetReflection()->ListFields(block, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_INT64) continue;
    const int64_t value = block.GetReflection()->GetInt64(block, field);
    const int64_t most = field->name() == "window" ? kLongestWindow : kLargestSize;
    if (value > most)
      problems.push_back(fmt::format("{}: {} {} is above {}", where, field->name(), value, most));
  }
}

void check_rope(double theta, const std::string& where, std::vector<std::string>& problems) {
  if (!std::isfinite(theta) || (theta != 0 && theta <= 1))
    problems.push_back(
        fmt::format("{}: rope_theta {} must be above 1, or 0 for no positions", where, theta));
}

SoftmaxMixerOptions softmax_options(const config::Model& model, const config::Attention& block,
                                    const std::string& where, std::vector<std::string>& problems) {
  SoftmaxMixerOptions options{.hidden_size = model.hidden_size(),
                              .norm_eps = model.norm_eps(),
                              .zero_centered_norms = model.zero_centered_norms(),
                              .init_std = model.init_std(),
                              .num_layers = model.num_layers()};
  for (const std::string& line : read_block(block, options))
    problems.push_back(fmt::format("{}: {}", where, line));
  if (options.num_kv_heads == 0) options.num_kv_heads = options.num_heads;
  if (options.head_size == 0 && options.num_heads > 0) {
    if (options.hidden_size % options.num_heads != 0)
      problems.push_back(fmt::format(
          "model.hidden_size = {} is not a multiple of {}.num_heads = {}: change one, or give "
          "{}.head_size",
          options.hidden_size, where, options.num_heads, where));
    options.head_size = std::max<int64_t>(1, options.hidden_size / options.num_heads);
  }
  check_rope(options.rope_theta, where, problems);
  return options;
}

LatentMixerOptions latent_options(const config::Model& model, const config::LatentAttention& block,
                                  const std::string& where, std::vector<std::string>& problems) {
  LatentMixerOptions options;
  options.hidden_size = model.hidden_size();
  options.norm_eps = model.norm_eps();
  options.init_std = model.init_std();
  options.num_layers = model.num_layers();
  for (const std::string& line : read_block(block, options))
    problems.push_back(fmt::format("{}: {}", where, line));
  check_rope(options.rope_theta, where, problems);
  return options;
}

LinearMixerOptions linear_options(const config::Model& model, const std::string& backend,
                                  const config::LinearAttention& block, const std::string& where,
                                  std::vector<std::string>& problems) {
  LinearMixerOptions options = LinearMixerOptions::for_backend(backend);
  options.hidden_size = model.hidden_size();
  options.init_std = model.init_std();
  options.num_layers = model.num_layers();
  for (const std::string& line : read_block(block, options))
    problems.push_back(fmt::format("{}: {}", where, line));
  options.num_key_heads = options.key_heads();
  check_rope(options.rope_theta, where, problems);
  return options;
}

const char* block_name(MixerFamily family) {
  switch (family) {
    case MixerFamily::kSoftmax:
      return "attention";
    case MixerFamily::kLatent:
      return "latent";
    case MixerFamily::kLinear:
      return "linear";
  }
  LONGSHIP_CHECK(false, "family {}", static_cast<int>(family));
}

// The descriptor of a mixer that has the block of its backend.
ConfiguredMixer configured(const config::Run& run, const config::Mixer& mixer,
                           const MixerBackend& backend, const std::string& where,
                           std::vector<std::string>& problems) {
  const config::Model& model = run.model();
  ConfiguredMixer made{.name = mixer.name(),
                       .block = fmt::format("{}.{}", where, block_name(backend.family)),
                       .strategy_field = where + ".strategy",
                       .descriptor = {},
                       .norm_after = mixer.norm_after()};
  MixerDescriptor& descriptor = made.descriptor;
  descriptor.backend = backend.name;
  descriptor.strategy = mixer.strategy();
  descriptor.input_multiplier = mixer.input_multiplier();
  descriptor.output_multiplier = mixer.output_multiplier();
  if (descriptor.strategy.empty()) {
    const bool linear = backend.family == MixerFamily::kLinear;
    made.strategy_field = linear ? "parallel.linear_strategy" : "parallel.strategy";
    descriptor.strategy = linear ? run.parallel().linear_strategy() : run.parallel().strategy();
  }
  if (backend.family == MixerFamily::kSoftmax) {
    check_sizes(mixer.attention(), made.block, problems);
    descriptor.softmax = softmax_options(model, mixer.attention(), made.block, problems);
  } else if (backend.family == MixerFamily::kLatent) {
    check_sizes(mixer.latent(), made.block, problems);
    descriptor.latent = latent_options(model, mixer.latent(), made.block, problems);
  } else {
    check_sizes(mixer.linear(), made.block, problems);
    descriptor.linear =
        linear_options(model, descriptor.backend, mixer.linear(), made.block, problems);
  }
  for (const std::string& problem : option_problems(descriptor))
    problems.push_back(fmt::format("{}: {}", made.block, problem));
  return made;
}

// All layers alike, from model.attention.
ConfiguredLayers one_kind(const config::Run& run, std::vector<std::string>& problems) {
  if (run.model().mixer_size() > 0)
    problems.push_back("model.mixer is given without model.layers, which says where they stand");
  config::Mixer mixer;
  mixer.set_name("attention");
  *mixer.mutable_attention() = run.model().attention();
  ConfiguredLayers layers;
  layers.mixers.push_back(configured(run, mixer, find_mixer_backend("full"), "model", problems));
  layers.mixers.back().num_layers = run.model().num_layers();
  layers.period = {{0}};
  return layers;
}

// A mixer of model.mixer; adds it to `layers` if its backend is known.
void read_mixer(const config::Run& run, const config::Mixer& mixer, ConfiguredLayers& layers,
                std::vector<std::string>& problems) {
  if (!is_mixer_name(mixer.name())) {
    problems.push_back(fmt::format(
        "model.mixer.name `{}` must be a letter, then letters, digits, `_` and `-`", mixer.name()));
    return;
  }
  const std::string where = "model.mixer." + mixer.name();
  for (const ConfiguredMixer& other : layers.mixers)
    if (other.name == mixer.name()) {
      problems.push_back(fmt::format("{} is given twice", where));
      return;
    }
  const std::string& name = mixer.backend().empty() ? mixer.name() : mixer.backend();
  const MixerBackend* backend = find_entry(mixer_backends(), name);
  if (backend == nullptr) {
    problems.push_back(fmt::format("{}.backend: unknown attention backend `{}`, expected {}", where,
                                   name, known_names(mixer_backends())));
    return;
  }
  const struct {
    MixerFamily family;
    bool given;
  } blocks[] = {{MixerFamily::kSoftmax, mixer.has_attention()},
                {MixerFamily::kLatent, mixer.has_latent()},
                {MixerFamily::kLinear, mixer.has_linear()}};
  for (const auto& block : blocks) {
    if (block.family == backend->family && !block.given)
      problems.push_back(fmt::format("{}.{} is required: the sizes of the backend `{}`", where,
                                     block_name(block.family), name));
    if (block.family != backend->family && block.given)
      problems.push_back(fmt::format("{}.{} has no meaning for the backend `{}`, whose block is {}",
                                     where, block_name(block.family), name,
                                     block_name(backend->family)));
  }
  layers.mixers.push_back(configured(run, mixer, *backend, where, problems));
}

void lay_out(const config::Model& model, ConfiguredLayers& layers,
             std::vector<std::string>& problems) {
  const LayerPattern pattern = parse_layer_pattern(model.layers(), model.num_layers());
  const int64_t repeats = model.num_layers() / static_cast<int64_t>(pattern.period.size());
  std::set<std::string> unknown;
  for (const std::vector<std::string>& names : pattern.period) {
    std::vector<size_t> indices;
    for (const std::string& name : names) {
      const auto mixer =
          std::find_if(layers.mixers.begin(), layers.mixers.end(),
                       [&](const ConfiguredMixer& other) { return other.name == name; });
      if (mixer == layers.mixers.end()) {
        unknown.insert(name);
        continue;
      }
      mixer->num_layers += repeats;
      indices.push_back(static_cast<size_t>(mixer - layers.mixers.begin()));
    }
    layers.period.push_back(std::move(indices));
  }
  for (const std::string& name : unknown)
    problems.push_back(fmt::format(
        "model.layers names `{}`, but there is no good model.mixer of that name", name));
  for (const ConfiguredMixer& mixer : layers.mixers)
    if (mixer.num_layers == 0)
      problems.push_back(fmt::format("model.mixer.{} stands nowhere in model.layers", mixer.name));
}

LayerDescriptor descriptor_of(const ConfiguredLayers& layers, int64_t layer) {
  std::vector<MixerDescriptor> mixers;
  for (size_t index : layers.mixers_of(layer)) {
    mixers.push_back(layers.mixers[index].descriptor);
    mixers.back().linear.layer_index = layer;
  }
  return LayerDescriptor(std::move(mixers));
}

// Why the mixers of a layer cannot share its norms; empty when they can.
std::string norm_conflict(const ConfiguredLayers& layers, int64_t layer) {
  for (size_t index : layers.mixers_of(layer)) {
    const ConfiguredMixer& first = layers.mixers[layers.mixers_of(layer)[0]];
    const ConfiguredMixer& other = layers.mixers[index];
    if (first.norm_after != other.norm_after)
      return fmt::format("`{}` and `{}` share a layer and differ in norm_after", first.name,
                         other.name);
  }
  return "";
}

}  // namespace

ConfiguredLayers read_layers(const config::Run& run, std::vector<std::string>& problems) {
  const config::Model& model = run.model();
  if (model.num_layers() < 1 || model.num_layers() > kMostLayers) {
    problems.push_back(
        fmt::format("model.num_layers must be 1 to {}, is {}", kMostLayers, model.num_layers()));
    return {};
  }
  if (model.layers().empty()) return one_kind(run, problems);
  if (model.has_attention())
    problems.push_back(
        "model.attention and model.layers exclude each other: put the block into a model.mixer");
  ConfiguredLayers layers;
  for (const config::Mixer& mixer : model.mixer()) read_mixer(run, mixer, layers, problems);
  try {
    lay_out(model, layers, problems);
  } catch (const Error& error) {
    problems.push_back(error.what());
    layers.period.clear();
  }
  std::set<std::string> conflicts;
  for (size_t layer = 0; layer < layers.period.size(); ++layer) {
    conflicts.insert(module_conflict(descriptor_of(layers, static_cast<int64_t>(layer))));
    conflicts.insert(norm_conflict(layers, static_cast<int64_t>(layer)));
  }
  for (const std::string& conflict : conflicts)
    if (!conflict.empty()) problems.push_back("model.layers: " + conflict);
  return layers;
}

ConfiguredLayers good_layers(const config::Run& run) {
  std::vector<std::string> problems;
  ConfiguredLayers layers = read_layers(run, problems);
  LONGSHIP_CHECK(problems.empty(), "an unchecked configuration: {}", fmt::join(problems, "; "));
  return layers;
}

std::vector<std::string> strategy_problems(const ConfiguredLayers& layers, const config::Run& run,
                                           int num_sp) {
  std::vector<std::string> problems;
  auto add = [&](const std::string& field, const std::string& problem) {
    const std::string line = fmt::format("{}: {}", field, problem);
    // Mixers that share a default share its problem.
    if (std::find(problems.begin(), problems.end(), line) == problems.end())
      problems.push_back(line);
  };
  auto is_known = [&](const std::string& field, const std::string& name) {
    if (name == kAutoStrategy || find_entry(strategies(), name) != nullptr) return true;
    add(field, fmt::format("unknown strategy `{}`, expected {}, {}", name,
                           known_names(strategies()), kAutoStrategy));
    return false;
  };
  is_known("parallel.strategy", run.parallel().strategy());
  is_known("parallel.linear_strategy", run.parallel().linear_strategy());
  for (const ConfiguredMixer& mixer : layers.mixers) {
    const std::string& name = mixer.descriptor.strategy;
    if (!is_known(mixer.strategy_field, name)) continue;
    const StrategyUse use = strategy_use(mixer.descriptor, num_sp, layout_of(run));
    if (name != kAutoStrategy) {
      if (const std::string refusal = find_strategy(name).refusal(use); !refusal.empty())
        add(mixer.strategy_field, refusal);
    } else if (strategies_for(use).empty()) {
      add(mixer.strategy_field, "no strategy serves this mask and layout");
    }
  }
  return problems;
}

void resolve_layers(config::Run& run) {
  const ConfiguredLayers layers = good_layers(run);
  config::Model& model = *run.mutable_model();
  if (model.layers().empty()) {
    write_block(layers.mixers[0].descriptor.softmax, *model.mutable_attention());
    return;
  }
  for (int i = 0; i < model.mixer_size(); ++i) {
    config::Mixer& mixer = *model.mutable_mixer(i);
    const MixerDescriptor& descriptor = layers.mixers[static_cast<size_t>(i)].descriptor;
    mixer.set_backend(descriptor.backend);
    if (mixer.has_attention()) write_block(descriptor.softmax, *mixer.mutable_attention());
    if (mixer.has_latent()) write_block(descriptor.latent, *mixer.mutable_latent());
    if (mixer.has_linear()) write_block(descriptor.linear, *mixer.mutable_linear());
  }
}

std::vector<LayerDescriptor> layer_descriptors(const config::Run& run) {
  const ConfiguredLayers layers = good_layers(run);
  std::vector<LayerDescriptor> descriptors;
  for (int64_t layer = 0; layer < run.model().num_layers(); ++layer)
    descriptors.push_back(descriptor_of(layers, layer));
  return descriptors;
}

std::vector<bool> norm_after_of(const config::Run& run) {
  const ConfiguredLayers layers = good_layers(run);
  std::vector<bool> after;
  for (int64_t layer = 0; layer < run.model().num_layers(); ++layer)
    after.push_back(layers.mixers[layers.mixers_of(layer)[0]].norm_after);
  return after;
}

Layout layout_of(const config::Run& run) {
  return run.parallel().layout() == config::Parallel::ZIGZAG ? Layout::kZigzag
                                                             : Layout::kContiguous;
}

}  // namespace longship
