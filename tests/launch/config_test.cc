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
  expect_error(ErrorCode::kConfig, {"true or false"}, [] { parse("", {"train.recompute=maybe"}); });
  expect_error(ErrorCode::kConfig, {"ZIGZAG, CONTIGUOUS"},
               [] { parse("", {"parallel.layout=3D"}); });
  expect_error(ErrorCode::kConfig, {"a whole number"}, [] { parse("", {"train.steps="}); });
  // A value must not smuggle in other fields.
  expect_error(ErrorCode::kConfig, {"train.steps"},
               [] { parse("", {"train.steps=3 context: 5"}); });
}

TEST(Config, CompleteTextRoundTripsAndShowsDefaults) {
  const config::Run run = parse("output_dir: 'o\"x' train { steps: 7 seed: 3 }");
  const std::string text = config_text(run);
  EXPECT_NE(text.find("rope_theta: 10000"), std::string::npos) << text;
  EXPECT_NE(text.find("layout: ZIGZAG"), std::string::npos) << text;
  EXPECT_TRUE(compare_configs(run, parse(text)).empty());
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
