#include "attention/softmax_mixer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/softmax_cpu.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mixer_model.h"
#include "tests/support/naive_rows.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::expect_error;
using testing::MixerModel;
using testing::relative_rms;

const SoftmaxCpu kKernel;
const std::vector<int64_t> kDocuments = {0, 7, 8, 8, 19};

SoftmaxMixerOptions llama() {
  return {.hidden_size = 10,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_size = 6,
          .init_std = 0.4,
          .num_layers = 2};
}

// Every option away from its default somewhere.
std::vector<std::pair<std::string, SoftmaxMixerOptions>> variants() {
  std::vector<std::pair<std::string, SoftmaxMixerOptions>> all = {{"llama", llama()}};
  auto add = [&](const std::string& name, auto&& change) {
    SoftmaxMixerOptions options = llama();
    change(options);
    all.emplace_back(name, options);
  };
  add("qwen2", [](auto& o) { o.qkv_bias = true; });
  add("qwen3", [](auto& o) { o.qk_norm = true, o.norm_eps = 1e-3, o.rope_theta = 1e6; });
  add("norms across heads", [](auto& o) { o.qk_norm = o.qk_norm_across_heads = true; });
  add("zero-centered norms", [](auto& o) { o.qk_norm = o.zero_centered_norms = true; });
  add("output bias", [](auto& o) { o.output_bias = true; });
  add("partial rotation", [](auto& o) { o.rotary_dim = 4, o.rope_theta = 50; });
  add("no positions", [](auto& o) { o.rope_theta = 0, o.head_size = 5; });
  add("window", [](auto& o) { o.window = 3; });
  add("output gate", [](auto& o) { o.output_gate = o.qkv_bias = o.qk_norm = true; });
  add("both directions", [](auto& o) { o.causal = false; });
  add("both directions in a window", [](auto& o) { o.causal = false, o.window = 2; });
  add("sink tokens", [](auto& o) { o.window = 3, o.num_sink_tokens = 2; });
  add("anchor", [](auto& o) { o.anchor = true; });
  add("sink logits", [](auto& o) { o.sink_logits = true, o.window = 4; });
  add("one head", [](auto& o) { o.num_heads = 1, o.num_kv_heads = 1; });
  return all;
}

const std::string kModule = "layer.self_attn.";

MixerModel model_of(const SoftmaxMixerOptions& options, DType dtype,
                    const std::vector<int64_t>& cu_seqlens = kDocuments, int num_threads = 1) {
  return {[&](ParameterList& parameters) {
            return std::make_unique<SoftmaxMixer>(options, "layer", parameters, make_local(kKernel),
                                                  std::make_shared<SharedRopeAngles>());
          },
          options.hidden_size, dtype, SequencePlan::local(cu_seqlens), num_threads};
}

// The formulas of the header, feature by feature.
Tensor plain_mixer(MixerModel& model, const SoftmaxMixerOptions& options) {
  Context& ctx = model.ctx;
  auto parameter = [&](const std::string& name) {
    const Parameter* found = model.parameters.find(kModule + name);
    return found == nullptr ? Tensor() : found->master;
  };
  auto project = [&](const Tensor& x, const std::string& name) {
    return testing::naive_projection(ctx, x, parameter(name + ".weight"),
                                     parameter(name + ".bias"));
  };
  const Tensor positions = model.plan.positions(ctx);
  const int64_t T = positions.numel(), D = options.head_size;
  Tensor queries = project(model.x_TE.value(), "q_proj"), gates;
  if (options.output_gate) {
    const Tensor both = queries.reshape({T, options.num_heads, 2, D});
    queries = both.slice(2, 0, 1).contiguous();
    gates = both.slice(2, 1, 1).contiguous();
  }
  auto heads = [&](const std::string& name, int64_t num_heads, bool turn) {
    const Tensor projected = name == "q" ? queries : project(model.x_TE.value(), name + "_proj");
    const Tensor y = projected.reshape({T, num_heads, D});
    if (!turn) return y;
    const int64_t R = options.rotary_dim == 0 ? D : options.rotary_dim;
    Tensor norm_W = parameter(name + "_norm.weight");  // W features are normed together
    if (options.zero_centered_norms) {
      norm_W = norm_W.clone();
      for (int64_t i = 0; i < norm_W.numel(); ++i) norm_W.data<double>()[i] += 1;
    }
    for (int64_t first = 0; norm_W.defined() && first < y.numel(); first += norm_W.numel())
      testing::naive_rms_norm(y.data<double>() + first, norm_W.numel(), norm_W.data<double>(),
                              options.norm_eps);
    for (int64_t row = 0; row < T * num_heads; ++row) {
      double* head = y.data<double>() + row * D;
      if (options.rope_theta > 0)
        testing::naive_rope(head, R, positions.data<int64_t>()[row / num_heads],
                            options.rope_theta);
    }
    return y;
  };
  const Tensor q = heads("q", options.num_heads, true);
  const Tensor k = heads("k", options.num_kv_heads, true);
  const Tensor v = heads("v", options.num_kv_heads, false);
  AttentionOptions attention{.scale = 1 / std::sqrt(static_cast<double>(D)),
                             .window = options.window,
                             .causal = options.causal,
                             .num_sink_tokens = options.num_sink_tokens,
                             .anchor = options.anchor};
  if (options.sink_logits) attention.sink_logit_H = parameter("sinks");
  const Tensor o = testing::naive_attention(ctx, q, k, v, ctx.zeros(q.shape(), DType::kF64),
                                            model.plan.cu_seqlens(), attention)
                       .o_THV;
  for (int64_t i = 0; options.output_gate && i < o.numel(); ++i)
    o.data<double>()[i] /= 1 + std::exp(-gates.data<double>()[i]);
  return project(o.reshape({T, options.num_heads * D}), "o_proj");
}

TEST(SoftmaxMixer, EqualsThePlainFormulas) {
  for (const auto& [name, options] : variants()) {
    MixerModel model = model_of(options, DType::kF64);
    const Tensor expected = plain_mixer(model, options);
    EXPECT_LE(
        relative_rms(model.mixer->forward(model.ctx, model.x_TE, model.plan).value(), expected),
        1e-13)
        << name;
  }
}

TEST(SoftmaxMixer, GradientsAreCentralDifferences) {
  for (const auto& [name, options] : variants()) {
    SCOPED_TRACE(name);
    MixerModel model = model_of(options, DType::kF64);
    // A bias of all keys shifts all scores of a query alike, unless positions turn it.
    testing::check_mixer_gradients(model, options.rope_theta == 0 ? kModule + "k_proj.bias" : "");
  }
}

TEST(SoftmaxMixer, LowPrecisionIsNearFp64) {
  for (const auto& [name, options] : variants())
    for (const auto& [dtype, bound] : {std::pair{DType::kF32, 1e-5}, {DType::kBF16, 4e-2}}) {
      SCOPED_TRACE(name);
      testing::check_mixer_precision(
          [&, &chosen = options](DType of, int) { return model_of(chosen, of); }, dtype, bound,
          kModule + "k_proj.bias");
    }
}

TEST(SoftmaxMixer, NamesAndShapesAreThoseOfCheckpoints) {
  SoftmaxMixerOptions options = llama();
  auto names = [&] {
    const MixerModel model = model_of(options, DType::kF32, {0});
    std::vector<std::string> found;
    for (const Parameter& parameter : model.parameters.all())
      found.push_back(fmt::format("{} {}{}", parameter.name, shape_string(parameter.master.shape()),
                                  parameter.decay ? "" : " no decay"));
    return found;
  };
  EXPECT_EQ(names(), (std::vector<std::string>{"layer.self_attn.q_proj.weight [24, 10]",
                                               "layer.self_attn.k_proj.weight [12, 10]",
                                               "layer.self_attn.v_proj.weight [12, 10]",
                                               "layer.self_attn.o_proj.weight [10, 24]"}));
  options.qkv_bias = options.output_bias = options.qk_norm = true;
  EXPECT_EQ(
      names(),
      (std::vector<std::string>{
          "layer.self_attn.q_proj.weight [24, 10]", "layer.self_attn.q_proj.bias [24] no decay",
          "layer.self_attn.k_proj.weight [12, 10]", "layer.self_attn.k_proj.bias [12] no decay",
          "layer.self_attn.v_proj.weight [12, 10]", "layer.self_attn.v_proj.bias [12] no decay",
          "layer.self_attn.o_proj.weight [10, 24]", "layer.self_attn.o_proj.bias [10] no decay",
          "layer.self_attn.q_norm.weight [6] no decay",
          "layer.self_attn.k_norm.weight [6] no decay"}));
  options = llama();
  options.qk_norm = options.qk_norm_across_heads = options.zero_centered_norms = true;
  EXPECT_EQ(names()[4], "layer.self_attn.q_norm.weight [24]");
  EXPECT_EQ(names()[5], "layer.self_attn.k_norm.weight [12]");
  options = llama();
  options.output_gate = options.sink_logits = true;
  EXPECT_EQ(names(),
            (std::vector<std::string>{
                "layer.self_attn.q_proj.weight [48, 10]", "layer.self_attn.k_proj.weight [12, 10]",
                "layer.self_attn.v_proj.weight [12, 10]", "layer.self_attn.o_proj.weight [10, 24]",
                "layer.self_attn.sinks [4] no decay"}));
}

TEST(SoftmaxMixer, StartsAsLlamaAndQwenDo) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF32, 3);
  const SoftmaxMixerOptions options{.hidden_size = 64,
                                    .num_heads = 8,
                                    .num_kv_heads = 4,
                                    .head_size = 16,
                                    .qkv_bias = true,
                                    .output_bias = true,
                                    .qk_norm = true,
                                    .init_std = 0.02,
                                    .num_layers = 8};
  const SoftmaxMixer mixer(options, "layer", parameters, make_local(kKernel),
                           std::make_shared<SharedRopeAngles>());
  for (const Parameter& parameter : parameters.all()) {
    const float* values = parameter.master.data<float>();
    const int64_t count = parameter.master.numel();
    auto ends_with = [&](std::string_view end) { return parameter.name.ends_with(end); };
    if (!ends_with("proj.weight")) {
      for (int64_t i = 0; i < count; ++i)
        ASSERT_EQ(values[i], ends_with("norm.weight") ? 1.0f : 0.0f) << parameter.name;
      continue;
    }
    double square = 0;
    for (int64_t i = 0; i < count; ++i) square += static_cast<double>(values[i] * values[i]);
    const double deviation = ends_with("o_proj.weight") ? 0.02 / 4 : 0.02;  // sqrt(2 * 8) = 4
    EXPECT_NEAR(std::sqrt(square / static_cast<double>(count)), deviation, 0.05 * deviation)
        << parameter.name;
  }
}

TEST(SoftmaxMixer, EveryNumberOfThreadsGivesTheSameBits) {
  SoftmaxMixerOptions options = llama();
  options.qkv_bias = options.qk_norm = options.output_gate = options.sink_logits = true;
  testing::check_mixer_thread_invariance([&](DType dtype, int num_threads) {
    return model_of(options, dtype, {0, 70, 71, 200}, num_threads);
  });
}

TEST(SoftmaxMixer, WorksOnARankThatHoldsNoToken) {
  SoftmaxMixerOptions options = llama();
  options.qkv_bias = options.output_bias = options.qk_norm = true;
  options.output_gate = options.sink_logits = options.anchor = true;
  MixerModel model = model_of(options, DType::kF32, {0});
  EXPECT_EQ(model.forward_and_backward().shape(), (Shape{0, 10}));
}

TEST(SoftmaxMixer, RefusesOptionsAndNamesEachThatIsWrong) {
  Context ctx;
  auto build = [&](const SoftmaxMixerOptions& options) {
    ParameterList parameters(ctx, DType::kF32, 1);
    SoftmaxMixer(options, "model.layers.3", parameters, make_local(kKernel),
                 std::make_shared<SharedRopeAngles>());
  };
  build(llama());
  SoftmaxMixerOptions options = llama();
  options.num_kv_heads = 3;
  options.rotary_dim = 5;
  options.window = -1;
  expect_error(ErrorCode::kConfig,
               {"model.layers.3.self_attn", "num_kv_heads 3", "rotary_dim 5", "window -1"},
               [&] { build(options); });
  auto refuses = [&](const std::string& name, auto&& change) {
    SoftmaxMixerOptions bad = llama();
    change(bad);
    expect_error(ErrorCode::kConfig, {name}, [&] { build(bad); });
  };
  refuses("hidden_size", [](auto& o) { o.hidden_size = 0; });
  refuses("num_heads", [](auto& o) { o.num_heads = -4; });
  refuses("num_kv_heads", [](auto& o) { o.num_kv_heads = 0; });
  refuses("head_size", [](auto& o) { o.head_size = 0; });
  refuses("rotary_dim", [](auto& o) { o.head_size = 5; });
  refuses("rotary_dim", [](auto& o) { o.rotary_dim = 8; });
  refuses("rotary_dim", [](auto& o) { o.rotary_dim = -2; });
  refuses("rope_theta", [](auto& o) { o.rope_theta = -1; });
  refuses("rope_theta", [](auto& o) { o.rope_theta = std::nan(""); });
  refuses("norm_eps", [](auto& o) { o.norm_eps = 0; });
  refuses("num_sink_tokens -1", [](auto& o) { o.num_sink_tokens = -1; });
  refuses("without a window", [](auto& o) { o.num_sink_tokens = 2; });
  refuses("init_std", [](auto& o) { o.init_std = -0.1; });
  refuses("num_layers", [](auto& o) { o.num_layers = 0; });
}

TEST(SharedRopeAngles, AreKeptForLayersThatTurnAlike) {
  Context ctx;
  SharedRopeAngles shared;
  const SequencePlan plan = SequencePlan::local({0, 5, 9});
  const SequencePlan other = SequencePlan::local({0, 4, 9});
  const RopeAngles first = shared.get(ctx, plan, 4, 100, DType::kF32);
  EXPECT_EQ(shared.get(ctx, plan, 4, 100, DType::kF32).cos_TR.raw(), first.cos_TR.raw());
  EXPECT_NE(shared.get(ctx, plan, 4, 200, DType::kF32).cos_TR.raw(), first.cos_TR.raw());
  EXPECT_EQ(shared.get(ctx, plan, 2, 100, DType::kF32).cos_TR.shape(), (Shape{9, 1}));
  EXPECT_EQ(shared.get(ctx, plan, 4, 100, DType::kF64).cos_TR.dtype(), DType::kF64);
  EXPECT_EQ(shared.get(ctx, plan, 4, 100, DType::kF32).cos_TR.raw(), first.cos_TR.raw());
  for (const SequencePlan& next : {other, plan}) {
    const RopeAngles found = shared.get(ctx, next, 4, 100, DType::kF32);
    const RopeAngles fresh = rope_angles(ctx, next.positions(ctx), 4, 100, DType::kF32);
    EXPECT_TRUE(bitwise_equal(found.cos_TR, fresh.cos_TR));
    EXPECT_TRUE(bitwise_equal(found.sin_TR, fresh.sin_TR));
  }
}

}  // namespace
}  // namespace longship
