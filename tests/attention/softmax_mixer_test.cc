#include "attention/softmax_mixer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "attention/softmax_cpu.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::expect_error;
using testing::random_tensor;
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

// A mixer on one rank with its parameters, and tokens to mix.
struct Model {
  Tape tape;
  Context ctx;
  ParameterList parameters;
  SoftmaxMixer mixer;
  SequencePlan plan;
  Variable x_TE;
  Tensor dy_TE;

  Model(const SoftmaxMixerOptions& options, DType dtype, std::vector<int64_t> cu_seqlens,
        int num_threads = 1)
      : parameters(with_threads(ctx, num_threads), dtype, /*seed=*/5),
        mixer(options, "layer", parameters, make_local(kKernel),
              std::make_shared<SharedRopeAngles>()),
        plan(SequencePlan::local(std::move(cu_seqlens))) {
    // Biases and norms start at 0 and 1, where mistakes would not show.
    for (Parameter& parameter : parameters.all())
      if (!parameter.decay)
        parameter.master.copy_from(
            random_tensor(ctx, parameter.master.shape(), parameter.name.size()));
    parameters.refresh_compute_copies();
    const Shape shape = {plan.num_tokens(), options.hidden_size};
    x_TE = Variable::leaf(random_tensor(ctx, shape, 1).to(dtype));
    dy_TE = random_tensor(ctx, shape, 2).to(dtype);
  }

  static Context& with_threads(Context& ctx, int num_threads) {
    ctx.num_threads = num_threads;
    return ctx;
  }

  Tensor value() { return mixer.forward(ctx, x_TE, plan).value(); }

  // dy . y
  double loss() {
    const Tensor y_TE = value();
    double sum = 0;
    for (int64_t i = 0; i < y_TE.numel(); ++i)
      sum += y_TE.data<double>()[i] * dy_TE.data<double>()[i];
    return sum;
  }

  // The output; gradients are then in `parameters` and x_TE.
  Tensor forward_and_backward() {
    ctx.tape = &tape;
    const Variable y_TE = mixer.forward(ctx, x_TE, plan);
    tape.backward(ctx, y_TE, dy_TE);
    ctx.tape = nullptr;
    return y_TE.value();
  }

  // x first, then the parameters.
  std::vector<std::pair<std::string, Variable>> leaves() {
    std::vector<std::pair<std::string, Variable>> all = {{"x", x_TE}};
    for (Parameter& parameter : parameters.all())
      all.emplace_back(parameter.name, parameter.variable);
    return all;
  }
};

// The formulas of the header, feature by feature.
Tensor plain_mixer(Model& model, const SoftmaxMixerOptions& options) {
  Context& ctx = model.ctx;
  auto parameter = [&](const std::string& name) {
    return model.parameters.find("layer.self_attn." + name);
  };
  auto project = [&](const Tensor& x, const std::string& name) {
    const Tensor w = parameter(name + ".weight")->master;
    const Parameter* bias = parameter(name + ".bias");
    const Tensor y = ctx.empty({x.dim(0), w.dim(0)}, DType::kF64);
    for (int64_t t = 0; t < y.dim(0); ++t)
      for (int64_t o = 0; o < y.dim(1); ++o) {
        double sum = bias == nullptr ? 0 : bias->master.data<double>()[o];
        for (int64_t i = 0; i < x.dim(1); ++i)
          sum += x.data<double>()[t * x.dim(1) + i] * w.data<double>()[o * x.dim(1) + i];
        y.data<double>()[t * y.dim(1) + o] = sum;
      }
    return y;
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
    const Parameter* norm = parameter(name + "_norm.weight");
    const int64_t R = options.rotary_dim == 0 ? D : options.rotary_dim;
    for (int64_t row = 0; row < T * num_heads; ++row) {
      double* head = y.data<double>() + row * D;
      if (norm != nullptr) {
        double square = 0;
        for (int64_t d = 0; d < D; ++d) square += head[d] * head[d];
        const double rms = std::sqrt(square / static_cast<double>(D) + options.norm_eps);
        for (int64_t d = 0; d < D; ++d) head[d] *= norm->master.data<double>()[d] / rms;
      }
      if (options.rope_theta == 0) continue;
      const double position = static_cast<double>(positions.data<int64_t>()[row / num_heads]);
      for (int64_t i = 0; i < R / 2; ++i) {
        const double angle = position * std::pow(options.rope_theta, -2.0 * static_cast<double>(i) /
                                                                         static_cast<double>(R));
        const double a = head[i], b = head[i + R / 2];
        head[i] = a * std::cos(angle) - b * std::sin(angle);
        head[i + R / 2] = b * std::cos(angle) + a * std::sin(angle);
      }
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
  if (options.sink_logits) attention.sink_logit_H = parameter("sinks")->master;
  const Tensor o = testing::naive_attention(ctx, q, k, v, ctx.zeros(q.shape(), DType::kF64),
                                            model.plan.cu_seqlens(), attention)
                       .o_THV;
  for (int64_t i = 0; options.output_gate && i < o.numel(); ++i)
    o.data<double>()[i] /= 1 + std::exp(-gates.data<double>()[i]);
  return project(o.reshape({T, options.num_heads * D}), "o_proj");
}

TEST(SoftmaxMixer, EqualsThePlainFormulas) {
  for (const auto& [name, options] : variants()) {
    Model model(options, DType::kF64, kDocuments);
    EXPECT_LE(relative_rms(model.value(), plain_mixer(model, options)), 1e-13) << name;
  }
}

TEST(SoftmaxMixer, GradientsAreCentralDifferences) {
  for (const auto& [name, options] : variants()) {
    Model model(options, DType::kF64, kDocuments);
    model.forward_and_backward();
    for (const auto& [leaf_name, leaf] : model.leaves()) {
      ASSERT_TRUE(leaf.gradient()->defined()) << leaf_name;
      const Tensor gradient = leaf.gradient()->sum();
      double* values = leaf.value().data<double>();
      const int64_t count = gradient.numel(), probes = std::min<int64_t>(count, 15);
      double largest = 0;
      for (int64_t probe = 0; probe < probes; ++probe) {
        const int64_t i = count * probe / probes;
        const double kept = values[i], step = 1e-5;
        values[i] = kept + step;
        const double above = model.loss();
        values[i] = kept - step;
        const double below = model.loss();
        values[i] = kept;
        const double numeric = (above - below) / (2 * step);
        EXPECT_NEAR(gradient.data<double>()[i], numeric, 1e-6 * std::max(1.0, std::abs(numeric)))
            << name << ": " << leaf_name << " element " << i;
        largest = std::max(largest, std::abs(numeric));
      }
      // A bias of all keys shifts all scores of a query alike, unless positions turn it.
      if (leaf_name == "layer.self_attn.k_proj.bias" && options.rope_theta == 0) continue;
      EXPECT_GT(largest, 1e-4) << name << ": " << leaf_name << " has no effect";
    }
  }
}

TEST(SoftmaxMixer, LowPrecisionIsNearFp64) {
  for (const auto& [name, options] : variants())
    for (const auto& [dtype, bound] : {std::pair{DType::kF32, 1e-5}, {DType::kBF16, 4e-2}}) {
      // Parameters and tokens that bf16 holds exactly.
      Model low(options, dtype, kDocuments), wide(options, DType::kF64, kDocuments);
      auto low_leaves = low.leaves(), wide_leaves = wide.leaves();
      for (size_t i = 0; i < low_leaves.size(); ++i) {
        const Tensor rounded = wide_leaves[i].second.value().to(DType::kBF16);
        low_leaves[i].second.value().copy_from(rounded);
        wide_leaves[i].second.value().copy_from(rounded);
      }
      low.dy_TE = wide.dy_TE.to(DType::kBF16).to(dtype);
      wide.dy_TE = low.dy_TE.to(DType::kF64);
      const Tensor y = low.forward_and_backward();
      EXPECT_EQ(y.dtype(), dtype);
      EXPECT_LE(relative_rms(y, wide.forward_and_backward()), bound) << name;
      for (size_t i = 0; i < low_leaves.size(); ++i) {
        if (low_leaves[i].first == "layer.self_attn.k_proj.bias") continue;  // all cancellation
        EXPECT_LE(relative_rms(low_leaves[i].second.gradient()->sum(),
                               wide_leaves[i].second.gradient()->sum()),
                  bound)
            << name << " " << low_leaves[i].first;
      }
    }
}

TEST(SoftmaxMixer, NamesAndShapesAreThoseOfCheckpoints) {
  SoftmaxMixerOptions options = llama();
  auto names = [&] {
    Model model(options, DType::kF32, {0});
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
  const std::vector<int64_t> documents = {0, 70, 71, 200};
  Model one(options, DType::kF32, documents);
  const Tensor expected = one.forward_and_backward();
  for (int num_threads : {2, 5}) {
    Model many(options, DType::kF32, documents, num_threads);
    EXPECT_TRUE(bitwise_equal(many.forward_and_backward(), expected));
    auto found = many.leaves(), wanted = one.leaves();
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_TRUE(
          bitwise_equal(found[i].second.gradient()->sum(), wanted[i].second.gradient()->sum()))
          << found[i].first;
  }
}

TEST(SoftmaxMixer, WorksOnARankThatHoldsNoToken) {
  SoftmaxMixerOptions options = llama();
  options.qkv_bias = options.output_bias = options.qk_norm = true;
  options.output_gate = options.sink_logits = options.anchor = true;
  Model model(options, DType::kF32, {0});
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
