#include "launch/config.h"

#include <gtest/gtest.h>

#include "runtime/error.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

using testing::expect_error;

config::Run parse(const std::string& text, std::vector<std::string> overrides = {}) {
  return parse_config(text, "run.textproto", overrides);
}

TEST(Config, ReadsFieldsAndKeepsDefaultsOfTheOthers) {
  const config::Run run =
      parse("output_dir: 'out' train { steps: 7 } parallel { layout: CONTIGUOUS }");
  EXPECT_EQ(run.output_dir(), "out");
  EXPECT_EQ(run.train().steps(), 7);
  EXPECT_EQ(run.parallel().layout(), config::Parallel::CONTIGUOUS);
  EXPECT_EQ(run.train().global_batch(), 1);
  EXPECT_DOUBLE_EQ(run.model().attention().rope_theta(), 10000.0);
}

TEST(Config, RefusesUnknownFieldsNamingFileAndLine) {
  expect_error(ErrorCode::kConfig, {"run.textproto:2", "stepz"},
               [] { parse("output_dir: 'out'\ntrain { stepz: 7 }"); });
}

TEST(Config, RefusesWrongTypesAndBrokenSyntax) {
  expect_error(ErrorCode::kConfig, {"run.textproto:1"}, [] { parse("train { steps: 'many' }"); });
  expect_error(ErrorCode::kConfig, {"run.textproto:1"}, [] { parse("train { steps: 3"); });
  expect_error(ErrorCode::kConfig, {"ZIGZAGG"}, [] { parse("parallel { layout: ZIGZAGG }"); });
  expect_error(ErrorCode::kConfig, {"run.textproto:1"},
               [] { parse("train { steps: 99999999999999999999 }"); });
}

TEST(Config, MissingFileIsNamed) {
  expect_error(ErrorCode::kConfig, {"/nowhere/run.textproto"},
               [] { load_config("/nowhere/run.textproto", {}); });
}

TEST(Config, OverridesReachEveryTypeOfField) {
  const config::Run run = parse("train { steps: 7 }",
                                {"train.steps=9", "output_dir=a b", "model.attention.qk_norm=true",
                                 "optim.learning_rate=3e-4", "parallel.layout=CONTIGUOUS",
                                 "train.seed=18446744073709551615"});
  EXPECT_EQ(run.train().steps(), 9);
  EXPECT_EQ(run.output_dir(), "a b");
  EXPECT_TRUE(run.model().attention().qk_norm());
  EXPECT_DOUBLE_EQ(run.optim().learning_rate(), 3e-4);
  EXPECT_EQ(run.parallel().layout(), config::Parallel::CONTIGUOUS);
  EXPECT_EQ(run.train().seed(), 18446744073709551615ull);
}

TEST(Config, TextOverridesMayHoldQuotesAndBackslashes) {
  EXPECT_EQ(parse("", {R"(output_dir=a"b\c)"}).output_dir(), R"(a"b\c)");
}

TEST(Config, WrongOverridePathsNameTheKnownFields) {
  expect_error(ErrorCode::kConfig, {"stepz", "steps, context"},
               [] { parse("", {"train.stepz=1"}); });
  expect_error(ErrorCode::kConfig, {"no field `trian`", "output_dir"},
               [] { parse("", {"trian.steps=1"}); });
  expect_error(ErrorCode::kConfig, {"a field inside `train`"}, [] { parse("", {"train=1"}); });
  expect_error(ErrorCode::kConfig, {"section.field=value"}, [] { parse("", {"train.steps"}); });
  expect_error(ErrorCode::kConfig, {"train.steps.x"}, [] { parse("", {"train.steps.x=1"}); });
}

TEST(Config, WrongOverrideValuesNameTheType) {
  expect_error(ErrorCode::kConfig, {"a whole number", "\"ten\""},
               [] { parse("", {"train.steps=ten"}); });
  expect_error(ErrorCode::kConfig, {"true or false"},
               [] { parse("", {"model.tied_embeddings=maybe"}); });
  expect_error(ErrorCode::kConfig, {"NONE, SELECTIVE, BLOCK"},
               [] { parse("", {"train.recompute=true"}); });
  expect_error(ErrorCode::kConfig, {"ZIGZAG, CONTIGUOUS"},
               [] { parse("", {"parallel.layout=3D"}); });
  expect_error(ErrorCode::kConfig, {"a whole number"}, [] { parse("", {"train.steps="}); });
  // A value must not smuggle in other fields.
  expect_error(ErrorCode::kConfig, {"train.steps"},
               [] { parse("", {"train.steps=3 context: 5"}); });
}

TEST(Config, CompleteTextRoundTripsAndShowsDefaults) {
  const config::Run run =
      parse("output_dir: 'o\"x' train { steps: 7 seed: 3 } model { attention {} }");
  const std::string text = config_text(run);
  EXPECT_NE(text.find("rope_theta: 10000"), std::string::npos) << text;
  EXPECT_NE(text.find("layout: ZIGZAG"), std::string::npos) << text;
  EXPECT_TRUE(compare_configs(run, parse(text)).empty());
}

constexpr const char* kHybrid = R"(
model {
  layers: "lin, full"
  mixer { name: "lin" backend: "gated_delta" linear { num_heads: 4 gate: "softplus" } }
  mixer { name: "full" strategy: "ring" attention { num_heads: 2 } }
}
)";

TEST(Config, OverridesCallRepeatedBlocksByTheirNames) {
  const config::Run run = parse(
      kHybrid, {"model.mixer.full.attention.rope_theta=8e4", "model.mixer.lin.strategy=lasp2"});
  EXPECT_DOUBLE_EQ(run.model().mixer(1).attention().rope_theta(), 8e4);
  EXPECT_EQ(run.model().mixer(0).strategy(), "lasp2");
  expect_error(ErrorCode::kConfig, {"the name of a `mixer`", "lin, full", "`fill`"},
               [] { parse(kHybrid, {"model.mixer.fill.strategy=ring"}); });
  expect_error(ErrorCode::kConfig, {"there is none"},
               [] { parse("", {"model.mixer.full.strategy=ring"}); });
  expect_error(ErrorCode::kConfig, {"a field inside `model.mixer.full`", "strategy"},
               [] { parse(kHybrid, {"model.mixer.full=ring"}); });
  expect_error(ErrorCode::kConfig, {"a field inside `model.mixer`"},
               [] { parse(kHybrid, {"model.mixer=ring"}); });
}

TEST(Config, TextKeepsRepeatedBlocksAndWhatTheyLeaveToTheirBackend) {
  const config::Run run = parse(kHybrid);
  const std::string text = config_text(run);
  EXPECT_TRUE(compare_configs(run, parse(text)).empty());
  const config::Mixer mixer = parse(text).model().mixer(0);
  EXPECT_EQ(mixer.linear().gate(), "softplus");
  EXPECT_FALSE(mixer.linear().has_max_beta());
  EXPECT_FALSE(mixer.has_attention());
  EXPECT_FALSE(parse(text).model().has_attention());
}

TEST(Config, DifferencesOfRepeatedBlocksAreFoundByName) {
  const config::Run before = parse(kHybrid);
  config::Run after = before;
  after.mutable_model()->mutable_mixer()->SwapElements(0, 1);
  EXPECT_TRUE(compare_configs(before, after).empty());
  after.mutable_model()->mutable_mixer(1)->mutable_linear()->set_max_beta(2);
  after.mutable_model()->mutable_mixer(1)->mutable_linear()->clear_gate();
  const auto differences = compare_configs(before, after);
  ASSERT_EQ(differences.size(), 2u);
  EXPECT_EQ(differences[0].field, "model.mixer.lin.linear.gate");
  EXPECT_EQ(differences[0].after, "unset");
  EXPECT_EQ(differences[1].field, "model.mixer.lin.linear.max_beta");
  EXPECT_EQ(differences[1].before, "unset");
  EXPECT_EQ(differences[1].after, "2");
}

TEST(Config, DifferencesNameFieldAndBothValues) {
  const auto differences = compare_configs(parse("train { steps: 7 }"),
                                           parse("train { steps: 8 } model { norm_eps: 1e-5 }"));
  ASSERT_EQ(differences.size(), 1u);  // an explicit default is not a difference
  EXPECT_EQ(differences[0].field, "train.steps");
  EXPECT_EQ(differences[0].before, "7");
  EXPECT_EQ(differences[0].after, "8");
}

}  // namespace
}  // namespace longship
