#include "runtime/model/decoder_block.h"

#include <gtest/gtest.h>

#include <cmath>

#include "parallel/sequence_plan.h"
#include "runtime/ops/add.h"
#include "runtime/ops/scale.h"
#include "tests/support/gradient_check.h"

namespace longship {
namespace {

using testing::random_tensor;
using Rows = std::vector<std::vector<double>>;

// Three times the token: enough to tell what a norm is applied to.
class TripleMixer final : public Mixer {
 public:
  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan&,
                   const Variable& residual_TE) override {
    const Variable y_TE = scale(ctx, x_TE, 3);
    return residual_TE.defined() ? add(ctx, residual_TE, y_TE) : y_TE;
  }
};

Rows rows_of(const Tensor& tensor) {
  Rows rows(static_cast<size_t>(tensor.dim(0)), std::vector<double>());
  for (int64_t i = 0; i < tensor.numel(); ++i)
    rows[static_cast<size_t>(i / tensor.dim(1))].push_back(tensor.data<double>()[i]);
  return rows;
}

// x W^T
Rows product(const Rows& x, const Rows& w) {
  Rows y;
  for (const auto& token : x) {
    y.emplace_back();
    for (const auto& weights : w) {
      double sum = 0;
      for (size_t i = 0; i < token.size(); ++i) sum += token[i] * weights[i];
      y.back().push_back(sum);
    }
  }
  return y;
}

Rows normed(Rows x, const Tensor& weight, double eps) {
  for (auto& token : x) {
    double square = 0;
    for (double value : token) square += value * value;
    const double rms = std::sqrt(square / static_cast<double>(token.size()) + eps);
    for (size_t i = 0; i < token.size(); ++i) token[i] *= weight.data<double>()[i] / rms;
  }
  return x;
}

Rows sum(Rows x, const Rows& y) {
  for (size_t t = 0; t < x.size(); ++t)
    for (size_t i = 0; i < x[t].size(); ++i) x[t][i] += y[t][i];
  return x;
}

TEST(DecoderBlock, NormsStandBeforeMixerAndMlpOrAfterThem) {
  for (const bool after : {false, true}) {
    Context ctx;
    ParameterList parameters(ctx, DType::kF64, 3);
    const TransformerShape shape{.vocab_size = 9,
                                 .hidden_size = 5,
                                 .intermediate_size = 7,
                                 .num_layers = 2,
                                 .norm_eps = 0.1,
                                 .norm_after = {!after, after},
                                 .init_std = 0.5};
    const DecoderBlock block(
        shape, 1,
        [](int64_t, const std::string&, ParameterList&) { return std::make_unique<TripleMixer>(); },
        parameters);
    auto parameter = [&](const std::string& name) {
      const Parameter* found = parameters.find("model.layers.1." + name);
      EXPECT_NE(found, nullptr) << name;
      return found->master;
    };
    const std::string first = after ? "post_attention_layernorm" : "input_layernorm";
    const std::string second = after ? "post_feedforward_layernorm" : "post_attention_layernorm";
    const Tensor mixer_norm = parameter(first + ".weight");
    const Tensor mlp_norm = parameter(second + ".weight");
    mixer_norm.copy_from(random_tensor(ctx, {5}, 1));
    mlp_norm.copy_from(random_tensor(ctx, {5}, 2));

    auto mix = [](Rows x) {
      for (auto& token : x)
        for (double& value : token) value *= 3;
      return x;
    };
    auto mlp = [&](const Rows& x) {
      Rows gate = product(x, rows_of(parameter("mlp.gate_proj.weight")));
      const Rows up = product(x, rows_of(parameter("mlp.up_proj.weight")));
      for (size_t t = 0; t < gate.size(); ++t)
        for (size_t i = 0; i < gate[t].size(); ++i)
          gate[t][i] *= up[t][i] / (1 + std::exp(-gate[t][i]));
      return product(gate, rows_of(parameter("mlp.down_proj.weight")));
    };
    const Tensor x_TE = random_tensor(ctx, {4, 5}, 3);
    const Rows x = rows_of(x_TE);
    const Rows h =
        sum(x, after ? normed(mix(x), mixer_norm, 0.1) : mix(normed(x, mixer_norm, 0.1)));
    const Rows y = sum(h, after ? normed(mlp(h), mlp_norm, 0.1) : mlp(normed(h, mlp_norm, 0.1)));
    const Rows found = rows_of(block.forward(ctx, x_TE, SequencePlan::local({0, 4})).value());
    for (size_t t = 0; t < y.size(); ++t)
      for (size_t i = 0; i < y[t].size(); ++i) EXPECT_NEAR(found[t][i], y[t][i], 1e-13) << after;
  }
}

}  // namespace
}  // namespace longship
