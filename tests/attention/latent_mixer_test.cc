#include "attention/latent_mixer.h"

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

LatentMixerOptions kimi() {
  return {.hidden_size = 10,
          .num_heads = 3,
          .kv_lora_rank = 7,
          .qk_nope_head_size = 5,
          .qk_rope_head_size = 4,
          .v_head_size = 6,
          .rope_theta = 0,
          .init_std = 0.4,
          .num_layers = 2};
}

std::vector<std::pair<std::string, LatentMixerOptions>> variants() {
  std::vector<std::pair<std::string, LatentMixerOptions>> all = {{"kimi", kimi()}};
  auto add = [&](const std::string& name, auto&& change) {
    LatentMixerOptions options = kimi();
    change(options);
    all.emplace_back(name, options);
  };
  add("deepseek", [](auto& o) { o.q_lora_rank = 8, o.rope_theta = 1e4, o.norm_eps = 1e-3; });
  add("direct queries", [](auto& o) { o.rope_theta = 50; });
  add("compressed queries, no positions", [](auto& o) { o.q_lora_rank = 3; });
  add("odd shared features", [](auto& o) { o.qk_rope_head_size = 3; });
  add("one head", [](auto& o) { o.num_heads = 1, o.rope_theta = 1e4; });
  add("large heads", [](auto& o) {
    o.num_heads = 2, o.qk_nope_head_size = 128, o.qk_rope_head_size = 64, o.v_head_size = 128;
    o.rope_theta = 1e4, o.init_std = 0.1;
  });
  return all;
}

// The ways to run on one rank.
std::vector<std::pair<std::string, std::shared_ptr<const LatentSchedule>>> schedules() {
  return {{"expanded", make_expanded_latent(make_local(kKernel))},
          {"gather", make_gather_latent(Group::self(), kKernel)},
          {"gather by two heads", make_gather_latent(Group::self(), kKernel, 2)}};
}

MixerModel model_of(const LatentMixerOptions& options,
                    const std::shared_ptr<const LatentSchedule>& schedule, DType dtype,
                    const std::vector<int64_t>& cu_seqlens = kDocuments, int num_threads = 1) {
  return {[&](ParameterList& parameters) {
            return std::make_unique<LatentMixer>(options, "model.layers.3", parameters, schedule,
                                                 std::make_shared<SharedRopeAngles>());
          },
          options.hidden_size, dtype, SequencePlan::local(cu_seqlens), num_threads};
}

// The formulas of the header, feature by feature in fp64.
class PlainFormulas {
 public:
  PlainFormulas(MixerModel& model, const LatentMixerOptions& options)
      : model_(model), options_(options), positions_T_(model.plan.positions(model.ctx)) {}

  Tensor mixed() {
    const LatentMixerOptions& o = options_;
    const int64_t H = o.num_heads, N = o.qk_nope_head_size, R = o.qk_rope_head_size;
    const int64_t V = o.v_head_size, C = o.kv_lora_rank, D = N + R, T = positions_T_.numel();
    const Tensor x = model_.x_TE.value();
    const Tensor q_TO = o.q_lora_rank == 0
                            ? project(x, "q_proj")
                            : project(normed(project(x, "q_a_proj"), "q_a_layernorm"), "q_b_proj");
    const Tensor a_TL = project(x, "kv_a_proj_with_mqa");
    const Tensor kv_TO =
        project(normed(a_TL.slice(1, 0, C).contiguous(), "kv_a_layernorm"), "kv_b_proj");
    Context& ctx = model_.ctx;
    const Tensor q = ctx.empty({T, H, D}, DType::kF64), k = ctx.empty({T, H, D}, DType::kF64);
    const Tensor v = ctx.empty({T, H, V}, DType::kF64);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t h = 0; h < H; ++h) {
        const double* expanded = kv_TO.data<double>() + (t * H + h) * (N + V);
        const double* query = q_TO.data<double>() + (t * H + h) * D;
        double* key = k.data<double>() + (t * H + h) * D;
        double* turned = q.data<double>() + (t * H + h) * D;
        std::copy_n(expanded, N, key);
        std::copy_n(expanded + N, V, v.data<double>() + (t * H + h) * V);
        std::copy_n(query, N, turned);
        turn(t, a_TL.data<double>() + t * (C + R) + C, key + N);
        turn(t, query + N, turned + N);
      }
    const Tensor o_THV = testing::naive_attention(ctx, q, k, v, ctx.zeros(v.shape(), DType::kF64),
                                                  model_.plan.cu_seqlens(),
                                                  {.scale = 1 / std::sqrt(static_cast<double>(D))})
                             .o_THV;
    return project(o_THV.reshape({T, H * V}), "o_proj");
  }

 private:
  Tensor weight(const std::string& name) const {
    return model_.parameter("model.layers.3.self_attn." + name + ".weight");
  }

  Tensor project(const Tensor& x, const std::string& name) const {
    return testing::naive_projection(model_.ctx, x, weight(name));
  }

  Tensor normed(const Tensor& x, const std::string& name) const {
    const Tensor w = weight(name), y = x.clone();
    for (int64_t t = 0; t < x.dim(0); ++t)
      testing::naive_rms_norm(y.data<double>() + t * x.dim(1), x.dim(1), w.data<double>(),
                              options_.norm_eps);
    return y;
  }

  // The shared features of token t.
  void turn(int64_t t, const double* from, double* to) const {
    const int64_t R = options_.qk_rope_head_size;
    std::copy_n(from, R, to);
    if (options_.rope_theta > 0)
      testing::naive_rope(to, R, positions_T_.data<int64_t>()[t], options_.rope_theta);
  }

  MixerModel& model_;
  LatentMixerOptions options_;
  Tensor positions_T_;
};

TEST(LatentMixer, EqualsThePlainFormulas) {
  for (const auto& [name, options] : variants())
    for (const auto& [way, schedule] : schedules()) {
      MixerModel model = model_of(options, schedule, DType::kF64);
      const Tensor expected = PlainFormulas(model, options).mixed();
      EXPECT_LE(
          relative_rms(model.mixer->forward(model.ctx, model.x_TE, model.plan).value(), expected),
          1e-13)
          << name << ", " << way;
    }
}

TEST(LatentMixer, GradientsAreCentralDifferences) {
  for (const auto& [name, options] : variants())
    for (const auto& [way, schedule] : schedules()) {
      SCOPED_TRACE(name + ", " + way);
      MixerModel model = model_of(options, schedule, DType::kF64);
      testing::check_mixer_gradients(model);
    }
}

TEST(LatentMixer, LowPrecisionIsNearFp64) {
  for (const auto& [name, options] : variants())
    for (const auto& [way, schedule] : schedules())
      for (const auto& [dtype, bound] : {std::pair{DType::kF32, 1e-5}, {DType::kBF16, 4e-2}}) {
        SCOPED_TRACE(name + ", " + way);
        testing::check_mixer_precision([&, &chosen = options, &with = schedule](
                                           DType of, int) { return model_of(chosen, with, of); },
                                       dtype, bound);
      }
}

TEST(LatentMixer, NamesAndShapesAreThoseOfCheckpoints) {
  LatentMixerOptions options = kimi();
  auto names = [&] {
    Context ctx;
    ParameterList parameters(ctx, DType::kF32, 1);
    const LatentMixer mixer(options, "model.layers.3", parameters, nullptr, nullptr);
    std::vector<std::string> found;
    for (const Parameter& parameter : parameters.all()) {
      const std::string prefix = "model.layers.3.self_attn.";
      EXPECT_TRUE(parameter.name.starts_with(prefix)) << parameter.name;
      found.push_back(fmt::format("{} {}{}", parameter.name.substr(prefix.size()),
                                  shape_string(parameter.master.shape()),
                                  parameter.decay ? "" : " no decay"));
    }
    return found;
  };
  EXPECT_EQ(names(), (std::vector<std::string>{
                         "q_proj.weight [27, 10]", "kv_a_proj_with_mqa.weight [11, 10]",
                         "kv_a_layernorm.weight [7] no decay", "kv_b_proj.weight [33, 7]",
                         "o_proj.weight [10, 18]"}));
  options.q_lora_rank = 8;
  EXPECT_EQ(names(), (std::vector<std::string>{
                         "q_a_proj.weight [8, 10]", "q_a_layernorm.weight [8] no decay",
                         "q_b_proj.weight [27, 8]", "kv_a_proj_with_mqa.weight [11, 10]",
                         "kv_a_layernorm.weight [7] no decay", "kv_b_proj.weight [33, 7]",
                         "o_proj.weight [10, 18]"}));
}

TEST(LatentMixer, DefaultsAreTheHeadsOfDeepSeekV2) {
  const LatentMixerOptions options;
  EXPECT_EQ(options.kv_lora_rank, 512);
  EXPECT_EQ(options.qk_nope_head_size + options.qk_rope_head_size, 192);
  EXPECT_EQ(options.v_head_size, 128);
}

TEST(LatentMixer, OutputStartsScaledDownByTheDepth) {
  Context ctx;
  ParameterList parameters(ctx, DType::kF32, 3);
  LatentMixerOptions options = kimi();
  options.hidden_size = 64, options.num_heads = 8, options.kv_lora_rank = 32;
  options.q_lora_rank = 48, options.init_std = 0.02, options.num_layers = 8;
  const LatentMixer mixer(options, "m", parameters, nullptr, nullptr);
  for (const Parameter& parameter : parameters.all()) {
    const float* values = parameter.master.data<float>();
    const int64_t count = parameter.master.numel();
    const bool is_norm = parameter.name.ends_with("layernorm.weight");
    double square = 0;
    for (int64_t i = 0; i < count; ++i) square += static_cast<double>(values[i] * values[i]);
    const double expected =
        is_norm ? 1.0 : (parameter.name.ends_with("o_proj.weight") ? 0.02 / 4 : 0.02);
    EXPECT_NEAR(std::sqrt(square / static_cast<double>(count)), expected, 0.06 * expected)
        << parameter.name;
  }
}

TEST(LatentMixer, EveryNumberOfThreadsGivesTheSameBits) {
  LatentMixerOptions options = kimi();
  options.q_lora_rank = 8, options.rope_theta = 1e4;
  for (const auto& [way, schedule] : schedules()) {
    SCOPED_TRACE(way);
    testing::check_mixer_thread_invariance([&, &with = schedule](DType dtype, int num_threads) {
      return model_of(options, with, dtype, {0, 70, 71, 200}, num_threads);
    });
  }
}

TEST(LatentMixer, WorksOnARankThatHoldsNoToken) {
  for (const auto& [way, schedule] : schedules()) {
    MixerModel model = model_of(kimi(), schedule, DType::kF32, {0});
    EXPECT_EQ(model.forward_and_backward().shape(), (Shape{0, 10})) << way;
  }
}

TEST(LatentMixer, InferenceGivesTheBitsOfTraining) {
  for (const auto& [way, schedule] : schedules()) {
    MixerModel model = model_of(kimi(), schedule, DType::kBF16);
    const Tensor inferred = model.mixer->forward(model.ctx, model.x_TE, model.plan).value();
    EXPECT_TRUE(bitwise_equal(inferred, model.forward_and_backward())) << way;
  }
}

TEST(LatentMixer, RefusesOptionsAndNamesEachThatIsWrong) {
  Context ctx;
  auto refuses = [&](std::initializer_list<std::string> names, auto&& change) {
    LatentMixerOptions options = kimi();
    change(options);
    ParameterList parameters(ctx, DType::kF32, 1);
    expect_error(ErrorCode::kConfig, names,
                 [&] { LatentMixer(options, "model.layers.3", parameters, nullptr, nullptr); });
  };
  refuses({"model.layers.3.self_attn", "kv_lora_rank 0", "v_head_size -1"},
          [](auto& o) { o.kv_lora_rank = 0, o.v_head_size = -1; });
  refuses({"hidden_size"}, [](auto& o) { o.hidden_size = 0; });
  refuses({"num_heads"}, [](auto& o) { o.num_heads = 0; });
  refuses({"q_lora_rank"}, [](auto& o) { o.q_lora_rank = -1; });
  refuses({"qk_nope_head_size"}, [](auto& o) { o.qk_nope_head_size = 0; });
  refuses({"qk_rope_head_size 3", "even"},
          [](auto& o) { o.qk_rope_head_size = 3, o.rope_theta = 10; });
  refuses({"qk_rope_head_size"}, [](auto& o) { o.qk_rope_head_size = 0; });
  refuses({"rope_theta"}, [](auto& o) { o.rope_theta = -1; });
  refuses({"rope_theta"}, [](auto& o) { o.rope_theta = std::nan(""); });
  refuses({"norm_eps"}, [](auto& o) { o.norm_eps = 0; });
  refuses({"init_std"}, [](auto& o) { o.init_std = -0.1; });
  refuses({"num_layers"}, [](auto& o) { o.num_layers = 0; });
}

TEST(LatentSchedule, RefusesTensorsThatDoNotFit) {
  Context ctx;
  const SequencePlan plan = SequencePlan::local({0, 6});
  auto tensor = [&](Shape shape) { return testing::random_tensor(ctx, std::move(shape), 1); };
  // 2 heads of 5 features of their own and 3 shared, 4 of values; 7 of the latent.
  const LatentAttentionInput fits{tensor({6, 2, 8}), tensor({6, 10}), tensor({18, 7}), 1.0};
  for (const auto& [way, schedule] : schedules()) {
    EXPECT_EQ(schedule->attend(ctx, fits, plan).shape(), (Shape{6, 2, 4})) << way;
    auto refuses = [&, &schedule = schedule](auto&& change) {
      LatentAttentionInput input = fits;
      change(input);
      EXPECT_THROW(schedule->attend(ctx, input, plan), Error) << way;
    };
    refuses([&](auto& in) { in.q_THD = tensor({5, 2, 8}); });
    refuses([&](auto& in) { in.q_THD = tensor({6, 16}); });
    refuses([&](auto& in) { in.q_THD = tensor({6, 2, 3}); });
    refuses([&](auto& in) { in.latent_TL = tensor({5, 10}); });
    refuses([&](auto& in) { in.latent_TL = tensor({6, 6}); });
    refuses([&](auto& in) { in.latent_TL = tensor({6, 10}).to(DType::kF32); });
    refuses([&](auto& in) { in.expand_OC = tensor({17, 7}); });
    refuses([&](auto& in) { in.expand_OC = tensor({10, 7}); });
  }
}

}  // namespace
}  // namespace longship
