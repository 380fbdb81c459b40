#include "launch/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "runtime/random.h"

namespace longship {
namespace {

void check(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature) || options.top_k < 0 ||
      !(options.top_p > 0 && options.top_p <= 1))
    throw Error(ErrorCode::kConfig,
                {.what = "sampling options out of range",
                 .expected = "temperature >= 0, top_k >= 0, 0 < top_p <= 1",
                 .found = fmt::format("temperature {}, top_k {}, top_p {}", options.temperature,
                                      options.top_k, options.top_p)});
}

// NaN has no place in an order, and an infinity no probability.
void check_finite_logits(std::span<const float> logits) {
  const auto bad =
      std::find_if(logits.begin(), logits.end(), [](float logit) { return !std::isfinite(logit); });
  if (bad != logits.end())
    throw Error(ErrorCode::kNonFinite,
                {.what = "logits of the next token",
                 .expected = "finite values",
                 .found = fmt::format("{} for token {}", *bad, bad - logits.begin()),
                 .next = "take an earlier checkpoint of the run"});
}

}  // namespace

int32_t sample_token(const Tensor& logits_V, const SamplingOptions& options, int64_t index) {
  check(options);
  const float* logits = logits_V.data<float>();
  const int64_t vocab_size = logits_V.numel();
  check_finite_logits({logits, static_cast<size_t>(vocab_size)});
  if (options.temperature == 0)
    return static_cast<int32_t>(std::max_element(logits, logits + vocab_size) - logits);

  // Candidates from likely to unlikely; equal logits by id, so the order is total.
  std::vector<int32_t> candidates(static_cast<size_t>(vocab_size));
  std::iota(candidates.begin(), candidates.end(), 0);
  std::sort(candidates.begin(), candidates.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  if (options.top_k > 0 && options.top_k < vocab_size)
    candidates.resize(static_cast<size_t>(options.top_k));
  std::vector<double> weights;
  for (int32_t id : candidates)
    weights.push_back(
        std::exp((static_cast<double>(logits[id]) - static_cast<double>(logits[candidates[0]])) /
                 options.temperature));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  double kept = 0;
  size_t num_kept = 0;
  while (num_kept < weights.size() && (num_kept == 0 || kept < options.top_p * total))
    kept += weights[num_kept++];

  double rest = uniform(options.seed, stream_of("sampling"), static_cast<uint64_t>(index)) * kept;
  for (size_t i = 0; i < num_kept; ++i) {
    rest -= weights[i];
    if (rest <= 0) return candidates[i];
  }
  return candidates[num_kept - 1];
}

}  // namespace longship
