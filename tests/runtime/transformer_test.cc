#include "runtime/model/transformer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "parallel/sequence_plan.h"
#include "runtime/ops/linear.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/leaf_gradients.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

constexpr Recompute kLevels[] = {Recompute::kNone, Recompute::kSelective, Recompute::kBlock};

// y_t = mean of x_0..x_t: the simplest mixer that is causal and not local.
Tensor causal_mean(const Context& ctx, const Tensor& x_TE, bool transposed) {
  const int64_t T = x_TE.dim(0), E = x_TE.dim(1);
  const Tensor y_TE = ctx.empty(x_TE.shape(), x_TE.dtype());
  dispatch_floating(x_TE.dtype(), [&](auto tag) {
    using D = decltype(tag);
    for (int64_t e = 0; e < E; ++e) {
      double sum = 0;
      for (int64_t i = 0; i < T; ++i) {
        const int64_t t = transposed ? T - 1 - i : i;
        const double x = static_cast<double>(x_TE.data<D>()[t * E + e]);
        const double count = static_cast<double>(t + 1);
        sum += transposed ? x / count : x;
        const double y = transposed ? sum : sum / count;
        y_TE.data<D>()[t * E + e] = static_cast<D>(static_cast<Accumulator<D>>(y));
      }
    }
  });
  return y_TE;
}

struct CausalMeanNode final : Node {
  const char* name() const override { return "causal_mean"; }
  void backward(Context& ctx) override {
    input(0)->add(ctx, causal_mean(ctx, grad_output(ctx), /*transposed=*/true));
  }
  void visit_saved(const SavedVisitor&) override {}
};

class CausalMeanMixer final : public Mixer {
 public:
  explicit CausalMeanMixer(Variable out_EE) : out_EE_(std::move(out_EE)) {}

  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan&,
                   const Variable& residual_TE) override {
    std::unique_ptr<Node> node;
    if (is_recording(ctx, {&x_TE})) node = std::make_unique<CausalMeanNode>();
    const Tensor mean_TE = causal_mean(ctx, x_TE.value(), /*transposed=*/false);
    return linear_add(ctx, residual_TE,
                      record(ctx, "causal_mean", mean_TE, std::move(node), {&x_TE}), out_EE_);
  }

 private:
  Variable out_EE_;
};

TransformerShape tiny_shape() {
  return {.vocab_size = 11,
          .hidden_size = 6,
          .intermediate_size = 10,
          .num_layers = 2,
          .init_std = 0.5,
          .loss_chunk_tokens = 4};
}

// A model with its own memory and tape, and a batch: one document of random tokens, every fourth
// token without a loss.
struct Model {
  Tape tape;
  Context ctx;
  ParameterList parameters;
  Transformer transformer;
  SequencePlan plan;
  Tensor tokens_T, targets_T, weights_T;

  Model(const TransformerShape& shape, DType dtype, int64_t num_tokens, int num_threads = 1)
      : parameters(with_threads(ctx, num_threads), dtype, /*seed=*/7),
        transformer(
            shape,
            [&](int64_t, const std::string& prefix, ParameterList& list) {
              const Initializer init{.a = residual_init_std(shape.init_std, shape.num_layers)};
              return std::make_unique<CausalMeanMixer>(list.add(
                  prefix + ".o_proj.weight", {shape.hidden_size, shape.hidden_size}, init, true));
            },
            parameters),
        plan(SequencePlan::local({0, num_tokens})),
        tokens_T(ctx.empty({num_tokens}, DType::kI32)),
        targets_T(ctx.empty({num_tokens}, DType::kI32)),
        weights_T(ctx.empty({num_tokens}, DType::kF32)) {
    for (int64_t t = 0; t < num_tokens; ++t) {
      const uint64_t vocabulary = static_cast<uint64_t>(shape.vocab_size);
      const uint64_t index = static_cast<uint64_t>(t);
      tokens_T.data<int32_t>()[t] = static_cast<int32_t>(uniform_index(3, 1, index, vocabulary));
      targets_T.data<int32_t>()[t] = static_cast<int32_t>(uniform_index(3, 2, index, vocabulary));
      weights_T.data<float>()[t] = t % 4 == 3 ? 0.0f : 1.0f;
    }
  }

  static Context& with_threads(Context& ctx, int num_threads) {
    ctx.num_threads = num_threads;
    return ctx;
  }

  double loss() {
    const Tensor sum = transformer.loss_sum(ctx, tokens_T, targets_T, weights_T, plan).value();
    return sum.to(DType::kF64).data<double>()[0];
  }

  // Returns the loss; gradients are then in `parameters`.
  Tensor loss_and_gradients() {
    ctx.tape = &tape;
    const Variable sum = transformer.loss_sum(ctx, tokens_T, targets_T, weights_T, plan);
    tape.backward(ctx, sum);
    ctx.tape = nullptr;
    return sum.value();
  }
};

TEST(Transformer, NamesAndShapesAreThoseOfLlamaCheckpoints) {
  TransformerShape shape = tiny_shape();
  shape.tied_embeddings = false;
  const Model model(shape, DType::kF32, 1);
  struct Expected {
    std::string name;
    Shape shape;
    bool decay;
  };
  std::vector<Expected> expected = {{"model.embed_tokens.weight", {11, 6}, false}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    expected.push_back({layer + "input_layernorm.weight", {6}, false});
    expected.push_back({layer + "o_proj.weight", {6, 6}, true});
    expected.push_back({layer + "post_attention_layernorm.weight", {6}, false});
    expected.push_back({layer + "mlp.gate_proj.weight", {10, 6}, true});
    expected.push_back({layer + "mlp.up_proj.weight", {10, 6}, true});
    expected.push_back({layer + "mlp.down_proj.weight", {6, 10}, true});
  }
  expected.push_back({"model.norm.weight", {6}, false});
  expected.push_back({"lm_head.weight", {11, 6}, true});
  ASSERT_EQ(model.parameters.all().size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const Parameter& parameter = model.parameters.all()[i];
    EXPECT_EQ(parameter.name, expected[i].name);
    EXPECT_EQ(parameter.master.shape(), expected[i].shape) << parameter.name;
    EXPECT_EQ(parameter.decay, expected[i].decay) << parameter.name;
  }
  EXPECT_EQ(Model(tiny_shape(), DType::kF32, 1).parameters.find("lm_head.weight"), nullptr);
}

TEST(Transformer, StartsAsLlamaDoes) {
  const TransformerShape shape{.vocab_size = 100,
                               .hidden_size = 64,
                               .intermediate_size = 160,
                               .num_layers = 8,
                               .init_std = 0.02,
                               .tied_embeddings = false};
  const Model model(shape, DType::kF32, 1);
  for (const Parameter& parameter : model.parameters.all()) {
    const float* values = parameter.master.data<float>();
    const double count = static_cast<double>(parameter.master.numel());
    if (parameter.name.find("norm") != std::string::npos) {
      for (int64_t i = 0; i < parameter.master.numel(); ++i) ASSERT_EQ(values[i], 1.0f);
      continue;
    }
    double sum = 0, square = 0;
    for (int64_t i = 0; i < parameter.master.numel(); ++i) {
      sum += static_cast<double>(values[i]);
      square += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    }
    const bool residual = parameter.name.find("down_proj") != std::string::npos ||
                          parameter.name.find("o_proj") != std::string::npos;
    const double deviation = residual ? 0.02 / 4 : 0.02;  // sqrt(2 * 8) = 4
    EXPECT_NEAR(std::sqrt(square / count), deviation, 0.05 * deviation) << parameter.name;
    EXPECT_NEAR(sum / count, 0, 4 * deviation / std::sqrt(count)) << parameter.name;
  }
}

void expect_central_differences(Model& model) {
  model.loss_and_gradients();
  std::vector<std::pair<std::string, Variable>> leaves;
  for (const Parameter& parameter : model.parameters.all())
    leaves.emplace_back(parameter.name, parameter.variable);
  testing::check_leaf_gradients(leaves, [&] { return model.loss(); });
}

TEST(Transformer, GradientsEqualCentralDifferences) {
  for (bool tied : {true, false})
    for (Recompute recompute : kLevels) {
      TransformerShape shape = tiny_shape();
      shape.tied_embeddings = tied;
      shape.recompute = recompute;
      Model model(shape, DType::kF64, 9);
      SCOPED_TRACE(fmt::format("tied {} recompute {}", tied, static_cast<int>(recompute)));
      expect_central_differences(model);
    }
  TransformerShape shape = tiny_shape();
  shape.zero_centered_norms = true;
  shape.norm_after = {false, true};
  Model model(shape, DType::kF64, 9);
  expect_central_differences(model);
}

TEST(Transformer, ZeroCenteredNormsStartAndCountFromOne) {
  TransformerShape shape = tiny_shape();
  Model usual(shape, DType::kF64, 9);
  shape.zero_centered_norms = true;
  Model centered(shape, DType::kF64, 9);
  EXPECT_EQ(centered.loss(), usual.loss());
  for (size_t i = 0; i < usual.parameters.all().size(); ++i) {
    const Parameter &from_one = usual.parameters.all()[i],
                    &from_zero = centered.parameters.all()[i];
    if (!from_one.name.ends_with("norm.weight")) continue;
    EXPECT_FALSE(from_one.decay);
    EXPECT_TRUE(from_zero.decay) << from_zero.name;
    for (int64_t d = 0; d < shape.hidden_size; ++d) {
      const double weight = 0.1 * static_cast<double>(d) - 0.2;
      from_one.master.data<double>()[d] = 1 + weight;
      from_zero.master.data<double>()[d] = weight;
    }
  }
  const double loss = usual.loss();
  EXPECT_EQ(centered.loss(), loss);
  EXPECT_NE(loss, Model(tiny_shape(), DType::kF64, 9).loss());
}

void expect_same_bits(Model& a, Model& b) {
  EXPECT_TRUE(testing::bitwise_equal(a.loss_and_gradients(), b.loss_and_gradients()));
  for (size_t i = 0; i < a.parameters.all().size(); ++i)
    EXPECT_TRUE(testing::bitwise_equal(a.parameters.all()[i].variable.gradient()->sum(),
                                       b.parameters.all()[i].variable.gradient()->sum()))
        << a.parameters.all()[i].name;
}

TEST(Transformer, RecomputeGivesTheSameBits) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (Recompute level : {Recompute::kSelective, Recompute::kBlock})
      for (int64_t num_layers : {0, 1}) {
        TransformerShape shape = tiny_shape();
        Model kept(shape, dtype, 37);
        shape.recompute = level;
        shape.recompute_layers = num_layers;
        Model recomputed(shape, dtype, 37);
        expect_same_bits(kept, recomputed);
      }
  }
}

TEST(Transformer, EveryNumberOfThreadsGivesTheSameBits) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (int num_threads : {2, 3}) {
      const TransformerShape shape{.vocab_size = 300,
                                   .hidden_size = 96,
                                   .intermediate_size = 200,
                                   .num_layers = 2,
                                   .init_std = 0.1,
                                   .loss_chunk_tokens = 64};
      Model one(shape, dtype, 333), many(shape, dtype, 333, num_threads);
      expect_same_bits(one, many);
    }
}

int64_t peak_bytes(Recompute recompute, int64_t recompute_layers = 0) {
  const TransformerShape shape{.vocab_size = 32,
                               .hidden_size = 32,
                               .intermediate_size = 96,
                               .num_layers = 12,
                               .recompute = recompute,
                               .recompute_layers = recompute_layers,
                               .loss_chunk_tokens = 64};
  Model model(shape, DType::kF32, 512);
  model.ctx.memory->reset_peak();
  const int64_t live = model.ctx.memory->live_bytes();
  model.loss_and_gradients();
  return model.ctx.memory->peak_bytes() - live;
}

TEST(Transformer, RecomputeKeepsOneBlockAtATime) {
  // 12 blocks of about 13 tensors [T, E] shrink to 12 inputs and one block; without norms and
  // activations, to about 8.
  const int64_t all = peak_bytes(Recompute::kNone), cheap = peak_bytes(Recompute::kSelective);
  EXPECT_LT(peak_bytes(Recompute::kBlock) * 4, all);
  EXPECT_LT(cheap * 5, all * 4);
  EXPECT_GT(cheap * 2, all);
}

TEST(Transformer, LayersThatAreNotRecomputedKeepOneLevelMore) {
  const int64_t block = peak_bytes(Recompute::kBlock), cheap = peak_bytes(Recompute::kSelective),
                all = peak_bytes(Recompute::kNone);
  EXPECT_EQ(peak_bytes(Recompute::kBlock, 12), block);
  // A third of the layers keeps about a third of what all would.
  const int64_t some = peak_bytes(Recompute::kBlock, 8);
  EXPECT_GT(some, block + (cheap - block) / 5);
  EXPECT_LT(some, block + (cheap - block) / 2);
  const int64_t most = peak_bytes(Recompute::kSelective, 8);
  EXPECT_GT(most, cheap + (all - cheap) / 5);
  EXPECT_LT(most, cheap + (all - cheap) / 2);
}

TEST(Transformer, TokenLossesSumToTheLoss) {
  for (DType dtype : {DType::kF64, DType::kF32}) {
    Model model(tiny_shape(), dtype, 23);
    model.ctx.tape = &model.tape;
    const Tensor losses =
        model.transformer.token_losses(model.ctx, model.tokens_T, model.targets_T, model.plan);
    EXPECT_EQ(model.tape.num_nodes(), 0u);
    EXPECT_EQ(losses.dtype(), DType::kF32);
    ASSERT_EQ(losses.shape(), (Shape{23}));
    double sum = 0;
    for (int64_t t = 0; t < 23; ++t)
      if (t % 4 != 3) sum += static_cast<double>(losses.data<float>()[t]);
    EXPECT_NEAR(model.loss() / sum, 1.0, 1e-6);
    EXPECT_GT(sum, 1.0);
  }
}

TEST(Transformer, LogitsGiveTheTokenLosses) {
  Model model(tiny_shape(), DType::kF64, 5);
  const Tensor hidden =
      model.transformer.hidden_states(model.ctx, model.tokens_T, model.plan).value();
  const Tensor losses =
      model.transformer.token_losses(model.ctx, model.tokens_T, model.targets_T, model.plan);
  const Tensor logits = model.transformer.logits(model.ctx, hidden.slice(0, 2, 3));
  ASSERT_EQ(logits.shape(), (Shape{3, 11}));
  for (int64_t n = 0; n < 3; ++n) {
    const double* row = logits.data<double>() + n * 11;
    double sum = 0;
    for (int64_t v = 0; v < 11; ++v) sum += std::exp(row[v]);
    const int32_t target = model.targets_T.data<int32_t>()[n + 2];
    EXPECT_NEAR(std::log(sum) - row[target], losses.data<float>()[n + 2], 1e-5);
  }
}

TEST(Transformer, ALaterTokenChangesNoEarlierLoss) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    Model model(tiny_shape(), dtype, 29);
    auto losses = [&] {
      return model.transformer.token_losses(model.ctx, model.tokens_T, model.targets_T, model.plan);
    };
    const Tensor before = losses();
    int32_t& token = model.tokens_T.data<int32_t>()[17];
    token = (token + 1) % 11;
    const Tensor after = losses();
    EXPECT_TRUE(testing::bitwise_equal(before.slice(0, 0, 17), after.slice(0, 0, 17)));
    EXPECT_FALSE(testing::bitwise_equal(before.slice(0, 17, 12), after.slice(0, 17, 12)));
  }
}

TEST(Transformer, WorksOnARankThatHoldsNoToken) {
  for (Recompute recompute : kLevels) {
    TransformerShape shape = tiny_shape();
    shape.recompute = recompute;
    Model model(shape, DType::kF32, 0);
    EXPECT_EQ(model.loss_and_gradients().data<float>()[0], 0.0f);
    for (const Parameter& parameter : model.parameters.all()) {
      if (!parameter.variable.gradient()->defined()) continue;
      const Tensor gradient = parameter.variable.gradient()->sum();
      EXPECT_EQ(testing::relative_rms(gradient, model.ctx.zeros(gradient.shape(), DType::kF32)), 0)
          << parameter.name;
    }
  }
}

TEST(Transformer, ErrorsNameThePlace) {
  for (Recompute recompute : kLevels) {
    TransformerShape shape = tiny_shape();
    shape.recompute = recompute;
    Model model(shape, DType::kF32, 9);
    model.ctx.check_finite = true;
    model.parameters.find("model.layers.1.mlp.down_proj.weight")->master.data<float>()[0] =
        std::numeric_limits<float>::quiet_NaN();
    testing::expect_error(ErrorCode::kNonFinite, {"layers.1.mlp: output of op `linear`"},
                          [&] { model.loss_and_gradients(); });
  }
  Model model(tiny_shape(), DType::kF32, 9);
  model.tokens_T.data<int32_t>()[4] = 11;
  testing::expect_error(ErrorCode::kCorrupt, {"id 11 at token 4", "[0, 11)"},
                        [&] { model.loss(); });
}

}  // namespace
}  // namespace longship
