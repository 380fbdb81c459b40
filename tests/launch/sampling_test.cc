#include "launch/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "tests/support/expect_error.h"

namespace longship {
namespace {

using testing::expect_error;

Tensor logits(const std::vector<float>& values) {
  return Tensor::from<float>(std::make_shared<Memory>(), {std::ssize(values)}, values);
}

// How often each token is chosen, of 1.
std::map<int32_t, double> shares(const Tensor& logits_V, const SamplingOptions& options) {
  constexpr int64_t kDraws = 20000;
  std::map<int32_t, double> found;
  for (int64_t i = 0; i < kDraws; ++i)
    found[sample_token(logits_V, options, i)] += 1.0 / static_cast<double>(kDraws);
  return found;
}

// Tokens 1, 3, 0, 2 have the probabilities 1/2, 1/4, 1/8, 1/8.
const Tensor kHalves =
    logits({-3 * std::log(2.0f), -std::log(2.0f), -3 * std::log(2.0f), -2 * std::log(2.0f)});

TEST(Sampling, WithoutTemperatureTakesTheFirstOfTheLikeliest) {
  EXPECT_EQ(sample_token(logits({1, 7, 7, -2}), {}, 0), 1);
  EXPECT_EQ(sample_token(logits({1, 7, 7, -2}), {.top_k = 3, .top_p = 0.5}, 9), 1);
}

TEST(Sampling, FollowsTheProbabilities) {
  auto found = shares(kHalves, {.temperature = 1});
  for (const auto& [token, share] : std::map<int32_t, double>{{1, .5}, {3, .25}, {0, .125}})
    EXPECT_NEAR(found[token], share, 0.015) << token;
  // Half the temperature squares them.
  found = shares(kHalves, {.temperature = 0.5});
  EXPECT_NEAR(found[1], 16.0 / 22, 0.015);
  EXPECT_NEAR(found[3], 4.0 / 22, 0.015);
}

TEST(Sampling, KeepsTheLikeliestAlone) {
  auto found = shares(kHalves, {.temperature = 1, .top_k = 2});
  EXPECT_EQ(found.size(), 2u);
  EXPECT_NEAR(found[1], 2.0 / 3, 0.015);
  // The fewest that have the probability together; of equal ones the lower token.
  EXPECT_EQ(shares(kHalves, {.temperature = 1, .top_p = 0.49}).size(), 1u);
  EXPECT_EQ(shares(kHalves, {.temperature = 1, .top_p = 0.74}).size(), 2u);
  found = shares(kHalves, {.temperature = 1, .top_p = 0.87});
  EXPECT_EQ(found.size(), 3u);
  EXPECT_TRUE(found.contains(0));
  EXPECT_EQ(shares(kHalves, {.temperature = 1, .top_k = 1, .top_p = 1}).size(), 1u);
}

TEST(Sampling, DependsOnSeedAndIndexAlone) {
  int num_changed = 0;
  for (int64_t i = 0; i < 50; ++i) {
    const SamplingOptions options{.temperature = 1, .seed = 3};
    const int32_t token = sample_token(kHalves, options, i);
    EXPECT_EQ(sample_token(kHalves, options, i), token);
    num_changed += sample_token(kHalves, {.temperature = 1, .seed = 4}, i) != token;
  }
  EXPECT_GT(num_changed, 0);
}

TEST(Sampling, RefusesOptionsOutOfRange) {
  for (const SamplingOptions& options :
       {SamplingOptions{.temperature = -1}, SamplingOptions{.temperature = std::nan("")},
        SamplingOptions{.top_k = -1}, SamplingOptions{.top_p = 0}, SamplingOptions{.top_p = 1.1}})
    expect_error(ErrorCode::kConfig, {"top_p"}, [&] { sample_token(kHalves, options, 0); });
}

TEST(Sampling, RefusesLogitsThatAreNotFinite) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()})
    for (const double temperature : {0.0, 1.0})
      expect_error(ErrorCode::kNonFinite, {"token 2"}, [&] {
        sample_token(logits({1, 2, bad, 4}), {.temperature = temperature}, 0);
      });
}

}  // namespace
}  // namespace longship
