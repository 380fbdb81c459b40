// The short convolution on one rank. The oracle is tests/support/naive_convolution.h.
#include "attention/linear/short_convolution.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_convolution.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::expect_error;
using testing::naive_convolution;
using testing::NaiveConvolution;
using testing::random_tensor;
using testing::relative_rms;
using testing::TapeContext;

// Documents of one token and more, shorter and longer than any width; an empty one.
const std::vector<int64_t> kDocuments = {0, 1, 2, 2, 9, 12, 13, 160, 161};

struct Settings {
  int64_t width;
  bool has_bias, silu;
};

std::vector<Settings> all_settings() {
  std::vector<Settings> all;
  for (int64_t width : {1, 2, 4, 8, 16})
    for (bool has_bias : {false, true})
      for (bool silu : {false, true}) all.push_back({width, has_bias, silu});
  return all;
}

testing::OpFunction convolution(bool silu, const std::vector<int64_t>& cu_seqlens) {
  return [=](Context& ctx, const std::vector<Variable>& inputs) {
    return short_convolution(ctx, Group::self(),
                             {{.x_TC = inputs[0],
                               .weight_CW = inputs[1],
                               .bias_C = inputs.size() > 2 ? inputs[2] : Variable(),
                               .silu = silu}},
                             SequencePlan::local(cu_seqlens));
  };
}

std::vector<Tensor> random_inputs(Context& ctx, int64_t num_tokens, int64_t num_channels,
                                  const Settings& settings) {
  std::vector<Tensor> inputs = {random_tensor(ctx, {num_tokens, num_channels}, 1),
                                random_tensor(ctx, {num_channels, settings.width}, 2)};
  if (settings.has_bias) inputs.push_back(random_tensor(ctx, {num_channels}, 3));
  return inputs;
}

TEST(ShortConvolution, EqualsItsLoopForEveryWidthAndChannelCount) {
  for (const Settings& settings : all_settings())
    for (int64_t num_channels : {1, 67, 130}) {
      SCOPED_TRACE(fmt::format("width {}, bias {}, SiLU {}, {} channels", settings.width,
                               settings.has_bias, settings.silu, num_channels));
      TapeContext recorded;
      Context& ctx = recorded.ctx;
      const int64_t num_tokens = kDocuments.back();
      const std::vector<Tensor> inputs = random_inputs(ctx, num_tokens, num_channels, settings);
      const Tensor dy_TC = random_tensor(ctx, {num_tokens, num_channels}, 4);
      const NaiveConvolution expected =
          naive_convolution(ctx,
                            {.x_TC = inputs[0],
                             .weight_CW = inputs[1],
                             .bias_C = settings.has_bias ? inputs[2] : Tensor(),
                             .silu = settings.silu,
                             .cu_seqlens = kDocuments},
                            dy_TC);
      std::vector<Variable> leaves;
      for (const Tensor& input : inputs) leaves.push_back(Variable::leaf(input));
      const Variable y_TC = convolution(settings.silu, kDocuments)(ctx, leaves)[0];
      EXPECT_LE(relative_rms(y_TC.value(), expected.y_TC), 1e-14);
      recorded.tape.backward(ctx, y_TC, dy_TC);
      const Tensor gradients[] = {expected.dx_TC, expected.dweight_CW, expected.dbias_C};
      for (size_t i = 0; i < leaves.size(); ++i)
        EXPECT_LE(relative_rms(leaves[i].gradient()->sum(), gradients[i]), 1e-14) << "input " << i;
    }
}

TEST(ShortConvolution, GradientsEqualCentralDifferences) {
  Context ctx;
  for (const Settings& settings : {Settings{4, true, true}, {3, false, false}})
    testing::check_gradients(convolution(settings.silu, {0, 1, 3, 17}),
                             random_inputs(ctx, 17, 5, settings));
}

TEST(ShortConvolution, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  for (const Settings& settings : {Settings{4, true, true}, {2, false, true}, {7, false, false}})
    for (int64_t num_channels : {1, 67, 300}) {
      const auto inputs = random_inputs(ctx, kDocuments.back(), num_channels, settings);
      testing::check_precision(convolution(settings.silu, kDocuments), inputs);
      testing::check_thread_invariance(convolution(settings.silu, kDocuments), inputs);
    }
}

TEST(ShortConvolution, TakesNoTokensAndNoChannels) {
  Context ctx;
  for (const Shape& shape : {Shape{0, 8}, Shape{5, 0}, Shape{0, 0}}) {
    const testing::OpResult result = testing::run_op(
        convolution(true, {0, shape[0]}),
        {random_tensor(ctx, shape, 1), random_tensor(ctx, {shape[1], 4}, 2)}, DType::kF32);
    EXPECT_EQ(result.outputs[0].shape(), shape);
    for (int64_t i = 0; i < result.gradients[1].numel(); ++i)
      EXPECT_EQ(result.gradients[1].data<float>()[i], 0.0f);
  }
}

TEST(ShortConvolution, SumsWeightGradientsInFp32ForBf16Tokens) {
  // A weight's gradient is the number of tokens, which bf16 could not count.
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  constexpr int64_t kTokens = 1001;
  auto filled = [&](const Shape& shape, DType dtype) {
    const Tensor ones = ctx.empty(shape, DType::kF32);
    std::fill_n(ones.data<float>(), ones.numel(), 1.0f);
    return ones.to(dtype);
  };
  const Variable x_TC = Variable::leaf(filled({kTokens, 3}, DType::kBF16));
  const Variable weight_CW = Variable::leaf(filled({3, 1}, DType::kBF16));
  const Variable y_TC =
      short_convolution(ctx, Group::self(), {{.x_TC = x_TC, .weight_CW = weight_CW, .bias_C = {}}},
                        SequencePlan::local({0, kTokens}))[0];
  EXPECT_EQ(y_TC.dtype(), DType::kBF16);
  recorded.tape.backward(ctx, y_TC, filled({kTokens, 3}, DType::kBF16));
  ASSERT_EQ(weight_CW.gradient()->dtype(), DType::kF32);
  for (int64_t c = 0; c < 3; ++c)
    EXPECT_EQ(weight_CW.gradient()->sum().data<float>()[c], static_cast<float>(kTokens));
}

TEST(ShortConvolution, RefusesTensorsThatDoNotFit) {
  Context ctx;
  const SequencePlan plan = SequencePlan::local({0, 6});
  auto call = [&](Shape x, Shape weight, Shape bias) {
    short_convolution(ctx, Group::self(),
                      {{.x_TC = ctx.zeros(std::move(x), DType::kF32),
                        .weight_CW = ctx.zeros(std::move(weight), DType::kF32),
                        .bias_C = ctx.zeros(std::move(bias), DType::kF32)}},
                      plan);
  };
  EXPECT_NO_THROW(call({6, 3}, {3, 4}, {3}));
  expect_error(ErrorCode::kInternal, {"for 6 local tokens"}, [&] { call({5, 3}, {3, 4}, {3}); });
  expect_error(ErrorCode::kInternal, {"over 3 channels"}, [&] { call({6, 3}, {2, 4}, {3}); });
  expect_error(ErrorCode::kInternal, {"at most 16 wide"}, [&] { call({6, 3}, {3, 17}, {3}); });
  expect_error(ErrorCode::kInternal, {"at most 16 wide"}, [&] { call({6, 3}, {3, 0}, {3}); });
  expect_error(ErrorCode::kInternal, {"bias"}, [&] { call({6, 3}, {3, 4}, {4}); });
}

TEST(ShortConvolution, TakesInputsOfOneDtypeAndWidthTogether) {
  Context ctx;
  auto input = [&](int64_t channels, int64_t width, DType dtype) {
    return ShortConvolutionInput{.x_TC = ctx.zeros({6, channels}, dtype),
                                 .weight_CW = ctx.zeros({channels, width}, dtype),
                                 .bias_C = {}};
  };
  auto call = [&](const std::vector<ShortConvolutionInput>& inputs) {
    return short_convolution(ctx, Group::self(), inputs, SequencePlan::local({0, 6})).size();
  };
  EXPECT_EQ(call({input(3, 4, DType::kF32), input(5, 4, DType::kF32)}), 2u);
  expect_error(ErrorCode::kInternal, {"of nothing"}, [&] { call({}); });
  expect_error(ErrorCode::kInternal, {"4 and 3 wide"}, [&] {
    call({input(3, 4, DType::kF32), input(3, 3, DType::kF32)});
  });
  expect_error(ErrorCode::kInternal, {"fp32 and bf16"}, [&] {
    call({input(3, 4, DType::kF32), input(3, 4, DType::kBF16)});
  });
}

TEST(ShortConvolution, GivesGradientsToThoseInputsThatWantOne) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Tensor x_TC = random_tensor(ctx, {6, 3}, 1), weight_CW = random_tensor(ctx, {3, 4}, 2);
  const Variable wanted_x_TC = Variable::leaf(x_TC), wanted_weight_CW = Variable::leaf(weight_CW);
  const std::vector<Variable> y_TC =
      short_convolution(ctx, Group::self(),
                        {{.x_TC = x_TC, .weight_CW = wanted_weight_CW, .bias_C = {}},
                         {.x_TC = wanted_x_TC, .weight_CW = weight_CW, .bias_C = {}}},
                        SequencePlan::local({0, 6}));
  const Tensor dy_TC = random_tensor(ctx, {6, 3}, 3);
  y_TC[1].gradient()->add(ctx, dy_TC);
  recorded.tape.backward(ctx, y_TC[0], dy_TC);
  const NaiveConvolution expected = naive_convolution(
      ctx, {.x_TC = x_TC, .weight_CW = weight_CW, .bias_C = {}, .cu_seqlens = {0, 6}}, dy_TC);
  EXPECT_LE(relative_rms(wanted_weight_CW.gradient()->sum(), expected.dweight_CW), 1e-14);
  EXPECT_LE(relative_rms(wanted_x_TC.gradient()->sum(), expected.dx_TC), 1e-14);
}

}  // namespace
}  // namespace longship
