#include "launch/layer_pattern.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

using testing::expect_error;
using Layers = std::vector<std::vector<std::string>>;

Layers period(const std::string& text, int64_t num_layers) {
  return parse_layer_pattern(text, num_layers).period;
}

TEST(LayerPattern, CountsNamesInOrder) {
  EXPECT_EQ(period("3x gated_delta, 1x full", 8),
            (Layers{{"gated_delta"}, {"gated_delta"}, {"gated_delta"}, {"full"}}));
  EXPECT_EQ(period("gated_delta,full", 2), (Layers{{"gated_delta"}, {"full"}}));
  EXPECT_EQ(period(" 2 x full\n", 2), (Layers{{"full"}, {"full"}}));
  EXPECT_EQ(period("x, x2-y_Z", 2), (Layers{{"x"}, {"x2-y_Z"}}));
}

TEST(LayerPattern, GroupsRepeatAndNest) {
  EXPECT_EQ(period("2x (a, b), c", 5), (Layers{{"a"}, {"b"}, {"a"}, {"b"}, {"c"}}));
  EXPECT_EQ(period("2x(2x a, (b))", 6), (Layers{{"a"}, {"a"}, {"b"}, {"a"}, {"a"}, {"b"}}));
  EXPECT_EQ(period("6x (3x kda, latent), 2x kda, latent", 27).size(), 27u);
}

TEST(LayerPattern, PlusPutsMixersIntoOneLayer) {
  EXPECT_EQ(period("2x mamba2 + full, full", 3),
            (Layers{{"mamba2", "full"}, {"mamba2", "full"}, {"full"}}));
}

TEST(LayerPattern, RepeatsUntilTheLastLayer) {
  const LayerPattern pattern = parse_layer_pattern("3x a, b", 8);
  for (int64_t layer = 0; layer < 8; ++layer)
    EXPECT_EQ(pattern.mixers_of(layer)[0], layer % 4 == 3 ? "b" : "a") << layer;
}

TEST(LayerPattern, NamesTheNearestNumberOfLayersThatFits) {
  expect_error(ErrorCode::kConfig, {"a period of 4", "10", "num_layers: 8"},
               [] { period("3x a, b", 10); });
  expect_error(ErrorCode::kConfig, {"num_layers: 12"}, [] { period("3x a, b", 11); });
  expect_error(ErrorCode::kConfig, {"num_layers: 4"}, [] { period("3x a, b", 1); });
  expect_error(ErrorCode::kConfig, {"num_layers: 65535"}, [] { period("3x a", int64_t{1} << 62); });
  expect_error(ErrorCode::kConfig, {"num_layers: 1"}, [] { period("a", -5); });
}

TEST(LayerPattern, ErrorsShowThePlace) {
  const struct {
    const char* text;
    int place;
    const char* word;
  } cases[] = {
      {"", 1, "the name of a mixer"},        {"a,", 3, "the name of a mixer"},
      {"a b", 3, "`,` or the end"},          {"3 a", 3, "`x` and a blank"},
      {"3xfull", 3, "`x` and a blank"},      {"0x a", 1, "at least 1"},
      {"a, 2x (b, c", 12, "`,` or `)`"},     {"a)", 2, "`,` or the end"},
      {"a + , b", 5, "the name of a mixer"}, {"a, (b + (c))", 9, "the name of a mixer"},
      {"_a", 1, "the name of a mixer"},      {"a\xff", 2, "`,` or the end"},
  };
  for (const auto& c : cases)
    expect_error(ErrorCode::kConfig, {fmt::format("character {}", c.place), c.word},
                 [&] { period(c.text, 4); });
}

TEST(LayerPattern, RefusesHugeCountsAndDeepGroupsBeforeLayingThemOut) {
  for (const char* text : {"99999999999999999999x a", "65537x a", "65536x (a, b)", "300x (300x a)",
                           "65536x a, a", "1000x (1000x (1000x (1000x a)))"})
    expect_error(ErrorCode::kConfig, {"at most 65536 layers"}, [&] { period(text, 4); });
  EXPECT_EQ(period("65536x a", 65536).size(), 65536u);
  EXPECT_EQ(period("((((((((a))))))))", 1).size(), 1u);
  expect_error(ErrorCode::kConfig, {"groups within each other"},
               [] { period(std::string(100000, '('), 1); });
}

TEST(LayerPattern, EveryPrefixAndMutationIsReadOrRefusedCleanly) {
  const std::string whole = "6x (3x kda, latent + x), 2x kda, ((a), 1x b)";
  const std::string alphabet = "ax0 9,+()_-\t\xf0";
  int num_read = 0, num_refused = 0;
  constexpr int64_t kManyDivisors = 55440;
  auto check = [&](const std::string& text) {
    try {
      const Layers layers = period(text, kManyDivisors);
      EXPECT_FALSE(layers.empty());
      for (const auto& layer : layers)
        for (const std::string& name : layer) EXPECT_TRUE(is_mixer_name(name)) << text;
      ++num_read;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kConfig) << text;
      ++num_refused;
    }
  };
  for (size_t length = 0; length <= whole.size(); ++length) check(whole.substr(0, length));
  for (uint64_t n = 0; n < 20000; ++n) {
    std::string text = whole;
    for (uint64_t change = 0; change <= n % 3; ++change)
      text[uniform_index(1, n, 2 * change, text.size())] =
          alphabet[uniform_index(1, n, 2 * change + 1, alphabet.size())];
    check(text);
  }
  EXPECT_GT(num_read, 100);
  EXPECT_GT(num_refused, 1000);
}

}  // namespace
}  // namespace longship
