#include "launch/auto_strategy.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>

#include "attention/strategy_cost.h"
#include "launch/agreement.h"
#include "launch/config.h"
#include "launch/device_peaks.h"
#include "launch/layers.h"
#include "launch/run_folder.h"
#include "runtime/gpu.h"

namespace longship {
namespace {

// What the run in output_dir was resolved to, if there is one.
std::optional<config::Run> earlier_run(const Group& world, const config::Run& run) {
  std::string bytes;
  run_together(world, "auto.resume", [&] {
    const std::filesystem::path path = RunFolder{run.output_dir()}.resolved_config();
    if (world.rank() == 0 && std::filesystem::exists(path))
      bytes = load_config(path.string(), {}).SerializeAsString();
  });
  bytes = world.broadcast_bytes("auto.resume", bytes, 0);
  if (bytes.empty()) return std::nullopt;
  config::Run earlier;
  earlier.ParseFromString(bytes);
  return earlier;
}

// The strategy that the earlier run had for this mixer, if it would do here.
std::string kept_strategy(const config::Run& run, const std::optional<config::Run>& earlier,
                          const ConfiguredMixer& mixer) {
  if (!earlier || earlier->parallel().sp() != run.parallel().sp() ||
      earlier->parallel().layout() != run.parallel().layout())
    return {};
  const StrategyUse use = strategy_use(mixer.descriptor, run.parallel().sp(), layout_of(run));
  std::vector<std::string> problems;
  for (const ConfiguredMixer& other : read_layers(*earlier, problems).mixers) {
    if (other.name != mixer.name) continue;
    for (const Strategy* strategy : strategies_for(use))
      if (strategy->name == other.descriptor.strategy) return other.descriptor.strategy;
  }
  return {};
}

// FLOP/s of attention. On a GPU long sequences reach about 0.6 of the data sheet's rate; what
// counts here is how that compares with the links.
double attention_rate(Context& ctx) {
  if (ctx.gpu == nullptr) return measure_attention_rate(ctx);
  constexpr double kUnknownPeak = 1e15;
  const double peak = device_peaks(ctx).bf16_flops;
  return 0.6 * (peak > 0 ? peak : kUnknownPeak);
}

// As rank 0 of the job measures them, so that all ranks choose alike.
MachineRates measure_rates(Context& ctx, const Mesh& mesh) {
  MachineRates rates{.links = measure_links(ctx, mesh.sp), .flops_per_s = attention_rate(ctx)};
  const std::string mine(reinterpret_cast<const char*>(&rates), sizeof rates);
  const std::string first = mesh.world.broadcast_bytes("auto.rates", mine, 0);
  std::memcpy(&rates, first.data(), sizeof rates);
  return rates;
}

std::string rates_text(const MachineRates& rates) {
  return fmt::format(
      "measured: {:.3g} us a message, {:.3g} GB/s to one rank, {:.3g} to all, "
      "{:.3g} GFLOP/s of attention",
      1e6 * rates.links.latency_s, rates.links.shift_bytes_per_s / 1e9,
      rates.links.exchange_bytes_per_s / 1e9, rates.flops_per_s / 1e9);
}

void set_strategy(config::Run& run, const std::string& mixer_name, const std::string& strategy) {
  if (run.model().layers().empty()) {
    run.mutable_parallel()->set_strategy(strategy);
    return;
  }
  for (config::Mixer& mixer : *run.mutable_model()->mutable_mixer())
    if (mixer.name() == mixer_name) mixer.set_strategy(strategy);
}

}  // namespace

bool has_auto_strategy(const config::Run& run) {
  const ConfiguredLayers layers = good_layers(run);
  return std::any_of(layers.mixers.begin(), layers.mixers.end(), [](const ConfiguredMixer& mixer) {
    return mixer.descriptor.strategy == kAutoStrategy;
  });
}

std::vector<std::string> choose_strategies(Context& ctx, const Mesh& mesh, config::Run& run) {
  std::vector<std::string> lines;
  if (!has_auto_strategy(run)) return lines;
  const std::optional<config::Run> earlier = earlier_run(mesh.world, run);
  const JobShape job{.num_ranks = mesh.sp.size(),
                     .layout = layout_of(run),
                     .num_tokens = run.train().micro_batch() * run.train().context(),
                     .element_bytes = run.train().precision() == config::Train::BF16 ? 2 : 4};
  std::optional<MachineRates> rates;
  for (const ConfiguredMixer& mixer : good_layers(run).mixers) {
    if (mixer.descriptor.strategy != kAutoStrategy) continue;
    std::string chosen = kept_strategy(run, earlier, mixer), reason;
    if (!chosen.empty()) {
      reason = chosen + ", as the run was started with";
    } else if (mesh.sp.size() == 1) {
      chosen = "local";
      reason = "local: one rank holds the whole sequence";
    } else {
      if (!rates) {
        rates = measure_rates(ctx, mesh);
        lines.push_back("auto      " + rates_text(*rates));
      }
      const std::vector<CostedStrategy> ranking = rank_strategies(mixer.descriptor, job, *rates);
      chosen = ranking.at(0).strategy->name;
      reason = ranking_text(ranking);
    }
    set_strategy(run, mixer.name, chosen);
    lines.push_back(fmt::format("auto      {} -> {}", mixer.name, reason));
  }
  return lines;
}

}  // namespace longship
