#include "attention/strategy_cost.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "attention/linear/linear_schedule.h"
#include "attention/softmax_cpu.h"
#include "parallel/head_exchange.h"
#include "parallel/usp.h"
#include "runtime/seconds_since.h"

namespace longship {
namespace {

constexpr double kSumBytes = 4;  // of an element of a sum on its way

// The parts of seconds() before they are joined.
struct Parts {
  double shift_bytes = 0;     // sent to one rank at a time
  double exchange_bytes = 0;  // sent to many ranks at once
  double exposed_bytes = 0;   // of exchange_bytes, before anything can be computed
  double hiding_share = 0;    // of the computing, under which the others travel
  double steps = 0;           // one after another
  double imbalance = 1;       // the slowest rank's computing over the mean
  double extra_flops = 0;     // that other strategies do not have
};

StrategyCost join(const Parts& parts, double flops, const MachineRates& rates) {
  const double mean_s = (flops + parts.extra_flops) / rates.flops_per_s;
  const double hidden_s =
      parts.shift_bytes / rates.links.shift_bytes_per_s +
      (parts.exchange_bytes - parts.exposed_bytes) / rates.links.exchange_bytes_per_s;
  return {.sent_bytes = parts.shift_bytes + parts.exchange_bytes,
          .compute_s = mean_s * parts.imbalance,
          .exposed_s = parts.exposed_bytes / rates.links.exchange_bytes_per_s +
                       std::max(0.0, hidden_s - mean_s * parts.hiding_share) +
                       parts.steps * rates.links.latency_s};
}

// In which heads travel, one after another, where that hides more than it costs.
double head_groups(const std::vector<HeadShare>& shares) {
  return static_cast<double>(in_groups(shares, kMaxUlyssesGroups).size());
}

// A softmax layer, or a latent one whose keys and values are expanded.
struct SoftmaxSizes {
  int64_t num_heads = 0, num_kv_heads = 0;
  int64_t key_size = 0, value_size = 0;
  int64_t window = 0;
  bool causal = true;
};

class SoftmaxCosts {
 public:
  SoftmaxCosts(const SoftmaxSizes& sizes, const JobShape& job)
      : sizes_(sizes),
        P_(job.num_ranks),
        zigzag_(job.layout == Layout::kZigzag),
        s_(static_cast<double>(job.num_tokens) / P_),
        e_(static_cast<double>(job.element_bytes)),
        H_(static_cast<double>(sizes.num_heads)),
        K_(static_cast<double>(sizes.num_kv_heads)),
        D_(static_cast<double>(sizes.key_size)),
        V_(static_cast<double>(sizes.value_size)) {}

  // Seven products with keys or values per score: two forward, five backward.
  double flops() const { return 7 * s_ * keys_per_query() * H_ * (D_ + V_); }
  double rows_gathered() const {
    const double all = (P_ - 1) * s_;
    if (sizes_.window > 0) return std::min(all, halo_rows());
    return sizes_.causal ? all * (zigzag_ ? 0.75 : 0.5) : all;
  }

  Parts of(std::string_view strategy) const {
    if (strategy == "ulysses") return ulysses();
    if (strategy == "ring") return ring();
    if (strategy == "token_ring") return token_ring();
    if (strategy == "gather_kv") return gather_kv();
    if (strategy == "usp") return usp();
    if (strategy == "lightseq") return lightseq();
    if (strategy == "halo") return halo();
    LONGSHIP_CHECK(strategy == "local", "strategy {} has no cost", strategy);
    return {};
  }

  // The last rank of the contiguous layout sees almost twice the mean of the keys.
  double causal_imbalance(double num_places) const {
    return zigzag_ || !sizes_.causal || sizes_.window > 0 ? 1 : 2 - 1 / num_places;
  }

 private:
  double keys_per_query() const {
    const double all = static_cast<double>(P_) * s_ * (sizes_.causal ? 0.5 : 1);
    if (sizes_.window == 0) return all;
    return std::min(all, static_cast<double>(sizes_.window) * (sizes_.causal ? 1 : 2));
  }
  // Keys of other ranks that windows reach.
  double halo_rows() const {
    return static_cast<double>(sizes_.window - 1) * (zigzag_ ? 2 : 1) * (sizes_.causal ? 1 : 2);
  }
  // Keys and values of a token on their way in the forward and the backward, and their gradients.
  double kv_bytes(double kv_heads) const { return kv_heads * (D_ + V_) * (2 * e_ + kSumBytes); }
  int hops() const {
    if (sizes_.window == 0 || zigzag_ || !sizes_.causal) return P_ - 1;
    return static_cast<int>(
        std::min(P_ - 1.0, std::ceil(static_cast<double>(sizes_.window - 1) / s_)));
  }

  Parts ulysses() const {
    double h = 0, k = 0, dealt = 0;  // of the fullest rank, and KV heads on all ranks
    const auto shares = deal_heads(sizes_.num_heads, sizes_.num_kv_heads, P_);
    for (const HeadShare& share : shares) {
      h = std::max(h, static_cast<double>(share.query.count));
      k = std::max(k, static_cast<double>(share.kv.count));
      dealt += static_cast<double>(share.kv.count);
    }
    const double x = dealt > K_ ? kSumBytes : e_;
    const double bytes =
        (P_ - 1) * s_ *
        ((h * D_ + k * (D_ + V_)) * e_ + 2 * h * V_ * e_ + h * D_ * e_ + k * (D_ + V_) * x);
    const double groups = head_groups(shares);
    return {.exchange_bytes = bytes,
            .exposed_bytes = bytes / groups,
            .hiding_share = (groups - 1) / groups,
            .steps = 4,
            .imbalance = h * P_ / H_};
  }
  Parts ring() const {
    const int n = hops();
    return {.shift_bytes = n * s_ * kv_bytes(K_) + (n > 0 ? s_ * K_ * (D_ + V_) * kSumBytes : 0),
            .hiding_share = n / (n + 1.0),
            .steps = 2.0 * n + 1,
            .imbalance = causal_imbalance(P_)};
  }
  Parts token_ring() const {
    const int n = hops();
    const double rows = n * s_ * (sizes_.causal ? (zigzag_ ? 0.75 : 0.5) : 1);
    return {.shift_bytes = rows * H_ * ((2 * D_ + V_) * e_ + (V_ + 1 + 2 + D_) * kSumBytes),
            .hiding_share = n / (n + 1.0),
            .steps = 2.0 * n + 2,
            .imbalance = causal_imbalance(P_)};
  }
  Parts gather_kv() const {
    const double bytes = rows_gathered() * kv_bytes(K_);
    return {.exchange_bytes = bytes,
            .exposed_bytes = bytes / K_,
            .hiding_share = (K_ - 1) / K_,
            .steps = 3 * K_,
            .imbalance = causal_imbalance(P_)};
  }
  Parts usp() const {
    const UspDegrees degrees = choose_usp_degrees(sizes_.num_heads, sizes_.num_kv_heads, P_);
    const double u = degrees.ulysses, r = degrees.ring;
    const double unit = s_ * (D_ + V_) * e_ / P_;
    const double all =
        unit * static_cast<double>(usp_traffic(sizes_.num_heads, sizes_.num_kv_heads, degrees));
    double dealt = 0;
    const auto shares = deal_heads(sizes_.num_heads, sizes_.num_kv_heads, degrees.ulysses);
    for (const HeadShare& share : shares) dealt += static_cast<double>(share.kv.count);
    const double groups = head_groups(shares);
    const double ring = r > 1 ? unit * P_ * dealt * (2 * (r - 1) + 2 * r) : 0;
    return {.shift_bytes = ring,
            .exchange_bytes = all - ring,
            .exposed_bytes = (all - ring) / groups,
            .hiding_share = std::max((r - 1) / r, (groups - 1) / groups),
            .steps = (u > 1 ? 4 : 0) + (r > 1 ? 2 * r - 1 : 0),
            .imbalance = causal_imbalance(r)};
  }
  Parts lightseq() const {
    // Over the steps, on average, so many ranks send keys and so many send queries.
    double keys = 0, queries = 0;
    for (int t = 1; 2 * t <= P_; ++t) {
      const double half = 2 * t == P_ ? 0.5 : 1;
      keys += (P_ - t) / static_cast<double>(P_);
      queries += half * t / static_cast<double>(P_);
    }
    const double query_bytes = H_ * ((2 * D_ + V_) * e_ + (V_ + 1 + 2 + D_) * kSumBytes);
    const double steps = P_ / 2;
    return {.shift_bytes = s_ * (keys * kv_bytes(K_) + queries * query_bytes),
            .hiding_share = steps / (steps + 1),
            .steps = 2 * steps + 2};
  }
  Parts halo() const {
    return {.shift_bytes = rows_gathered() * kv_bytes(K_),
            .hiding_share = std::max(0.0, 1 - halo_rows() / (2 * s_)),
            .steps = 3};
  }

  SoftmaxSizes sizes_;
  int P_;
  bool zigzag_;
  double s_, e_, H_, K_, D_, V_;
};

StrategyCost latent_cost(const Strategy& strategy, const LatentMixerOptions& latent,
                         const JobShape& job, const MachineRates& rates) {
  const SoftmaxCosts costs({.num_heads = latent.num_heads,
                            .num_kv_heads = latent.num_heads,
                            .key_size = latent.qk_nope_head_size + latent.qk_rope_head_size,
                            .value_size = latent.v_head_size},
                           job);
  if (strategy.latent == nullptr) return join(costs.of(strategy.name), costs.flops(), rates);
  const double row = static_cast<double>(latent.kv_lora_rank + latent.qk_rope_head_size);
  const double rows = costs.rows_gathered();
  const double bytes = rows * row * (2 * static_cast<double>(job.element_bytes) + kSumBytes);
  // Forward, again in the backward, and the gradients of latents and weight.
  const double expansion = 8 * rows * static_cast<double>(latent.kv_lora_rank) *
                           static_cast<double>(latent.num_heads) *
                           static_cast<double>(latent.qk_nope_head_size + latent.v_head_size);
  return join({.exchange_bytes = bytes,
               .exposed_bytes = bytes,
               .steps = 3,
               .imbalance = costs.causal_imbalance(job.num_ranks),
               .extra_flops = expansion},
              costs.flops(), rates);
}

StrategyCost linear_cost(const Strategy& strategy, const LinearMixerOptions& linear,
                         const JobShape& job, const MachineRates& rates) {
  constexpr double kChunk = 64;
  const double P = job.num_ranks, s = static_cast<double>(job.num_tokens) / P;
  const double e = static_cast<double>(job.element_bytes);
  const double H = static_cast<double>(linear.num_heads);
  const double K = static_cast<double>(linear.kernel_key_size());
  const double V = static_cast<double>(linear.value_size);
  const bool learned_gate = linear.gate != GateLaw::kNone && linear.gate != GateLaw::kConstant;
  const bool dense = linear.delta_rule;
  // Within and between chunks, three times for forward and backward; the delta rule solves a
  // triangular system beside.
  const double flops = 3 * s * H * (4 * K * V + 2 * kChunk * (K + V)) * (dense ? 2 : 1);
  if (job.num_ranks == 1) return join({}, flops, rates);

  if (strategy.name == "ulysses") {
    double h = 0, g = 0, dealt = 0;
    const auto shares = deal_heads(linear.num_heads, linear.key_heads(), job.num_ranks);
    for (const HeadShare& share : shares) {
      h = std::max(h, static_cast<double>(share.query.count));
      g = std::max(g, static_cast<double>(share.kv.count));
      dealt += static_cast<double>(share.kv.count);
    }
    const double x = dealt > static_cast<double>(linear.key_heads()) ? kSumBytes : e;
    const double gates = (learned_gate ? (linear.gate_per_key ? K : 1) : 0) + (dense ? 1 : 0);
    const double bytes =
        (P - 1) * s * (2 * g * K * (e + x) + 2 * h * (V * e + gates * kSumBytes) + 2 * h * V * e);
    const double groups = head_groups(shares);
    return join({.exchange_bytes = bytes,
                 .exposed_bytes = bytes / groups,
                 .hiding_share = (groups - 1) / groups,
                 .steps = 2 * (groups + 1),
                 .imbalance = h * P / H},
                flops, rates);
  }

  // A state goes over the borders of 2 P chunks, two of which adjoin, or of P.
  const bool zigzag = job.layout == Layout::kZigzag;
  const double hops = zigzag ? 2 * P - 2 : P - 1, slots = zigzag ? 2 : 1;
  const double state_bytes = H * K * V * kSumBytes;
  const double hop_s = state_bytes / rates.links.shift_bytes_per_s;
  const double L = rates.links.latency_s;
  StrategyCost cost{.sent_bytes = 2 * slots * state_bytes, .compute_s = flops / rates.flops_per_s};
  double chain_s = 0, composing_s = 0;  // of one direction
  if (strategy.name == "lasp") {
    // Each hop waits for a walk through the tokens of a slot; the mean of both directions.
    const double walk_flops = s / slots * H * (dense ? 10 * K * V + 3 * kChunk * V : 4 * K * V) / 2;
    chain_s = hops * (walk_flops / rates.flops_per_s + hop_s + L);
  } else if (strategy.name == "zeco") {
    const double blocks = std::min<double>(static_cast<double>(ZecoOptions().num_blocks), V);
    chain_s = (1 + (hops - 1) / blocks) * hop_s + (hops - 1 + blocks) * L;
  } else {
    LONGSHIP_CHECK(strategy.name == "lasp2", "strategy {} has no cost", strategy.name);
    const double transition = dense ? K * K : learned_gate && linear.gate_per_key ? K : 1;
    const double map_bytes = state_bytes + H * transition * kSumBytes;
    cost.sent_bytes = 2 * (P - 1) * slots * map_bytes;
    chain_s = (P - 1) * slots * map_bytes / rates.links.exchange_bytes_per_s + L;
    composing_s = hops * H * K * V * (dense ? 2 * K : 2) / rates.flops_per_s;
  }
  cost.exposed_s = 2 * (std::max(0.0, chain_s - cost.compute_s / 6) + composing_s);
  return cost;
}

}  // namespace

StrategyCost estimate_cost(const Strategy& strategy, const MixerDescriptor& mixer,
                           const JobShape& job, const MachineRates& rates) {
  const MixerFamily family = find_mixer_backend(mixer.backend).family;
  LONGSHIP_CHECK(strategy.serves(family), "{} under {}", mixer.backend, strategy.name);
  if (family == MixerFamily::kLinear) return linear_cost(strategy, mixer.linear, job, rates);
  if (family == MixerFamily::kLatent) return latent_cost(strategy, mixer.latent, job, rates);
  const SoftmaxCosts costs({.num_heads = mixer.softmax.num_heads,
                            .num_kv_heads = mixer.softmax.num_kv_heads,
                            .key_size = mixer.softmax.head_size,
                            .value_size = mixer.softmax.head_size,
                            .window = mixer.softmax.window,
                            .causal = mixer.softmax.causal},
                           job);
  return join(costs.of(strategy.name), costs.flops(), rates);
}

std::vector<CostedStrategy> rank_strategies(const MixerDescriptor& mixer, const JobShape& job,
                                            const MachineRates& rates) {
  std::vector<CostedStrategy> ranking;
  for (const Strategy* strategy : strategies_for(strategy_use(mixer, job.num_ranks, job.layout)))
    ranking.push_back({strategy, estimate_cost(*strategy, mixer, job, rates)});
  // Of equals, one that is made for few ranks: `local` for one.
  auto limited = [](const CostedStrategy& costed) { return costed.strategy->max_ranks > 0; };
  std::stable_sort(ranking.begin(), ranking.end(), [&](const auto& a, const auto& b) {
    return a.cost.seconds() != b.cost.seconds() ? a.cost.seconds() < b.cost.seconds()
                                                : limited(a) && !limited(b);
  });
  return ranking;
}

std::string ranking_text(const std::vector<CostedStrategy>& ranking) {
  LONGSHIP_CHECK(!ranking.empty(), "no strategy to rank");
  const StrategyCost& best = ranking[0].cost;
  std::string text = fmt::format("{}: {:.3g} ms a layer, {:.2g} of it waiting for {:.3g} MB",
                                 ranking[0].strategy->name, 1e3 * best.seconds(),
                                 1e3 * best.exposed_s, best.sent_bytes / 1e6);
  for (size_t i = 1; i < ranking.size(); ++i) {
    const StrategyCost& cost = ranking[i].cost;
    text += fmt::format("{} {} {:.3g} ({:.2g} for {:.3g} MB)", i == 1 ? "; then" : ",",
                        ranking[i].strategy->name, 1e3 * cost.seconds(), 1e3 * cost.exposed_s,
                        cost.sent_bytes / 1e6);
  }
  return text;
}

double measure_attention_rate(Context& ctx) {
  constexpr int64_t kTokens = 256, kHeads = 2, kSize = 64;
  using Clock = std::chrono::steady_clock;
  SoftmaxBlockInput input{.q_THD = ctx.zeros({kTokens, kHeads, kSize}, DType::kF32),
                          .k_SKD = ctx.zeros({kTokens, kHeads, kSize}, DType::kF32),
                          .v_SKV = ctx.zeros({kTokens, kHeads, kSize}, DType::kF32),
                          .kv_head = grouped_kv_heads(kHeads, kHeads)};
  const SequencePlan plan = SequencePlan::local({0, kTokens});
  const BlockMask mask =
      document_mask(plan.local_segments(), plan.local_segments(), MaskRule{.causal = false});
  const SoftmaxCpu kernel;
  double best_s = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 3; ++round) {
    const Clock::time_point begin = Clock::now();
    kernel.forward(ctx, input, mask);
    best_s = std::min(best_s, seconds_since(begin));
  }
  return 4.0 * kTokens * kTokens * kHeads * kSize / std::max(best_s, 1e-9);
}

}  // namespace longship
