// Mixers that share a sequence against the mixer of one rank that holds all of it.
// ranks: 1 2 3 4
#include <gtest/gtest.h>

#include "attention/registry.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::random_tensor;
using testing::relative_rms;
using testing::world;

const std::vector<int64_t> kDocuments = {0, 1, 150, 150, 157, 241};

SoftmaxMixerOptions qwen() {
  return {.hidden_size = 24,
          .num_heads = 6,
          .num_kv_heads = 2,
          .head_size = 16,
          .qkv_bias = true,
          .qk_norm = true,
          .init_std = 0.2};
}

std::vector<SoftmaxMixerOptions> variants() {
  std::vector<SoftmaxMixerOptions> all = {qwen(), qwen(), qwen(), qwen()};
  all[1].output_gate = all[1].sink_logits = all[1].anchor = true;
  all[1].window = 20;
  all[1].num_sink_tokens = 3;
  all[2].causal = false;
  all[3].window = 70;  // more than a shard of four ranks
  return all;
}

// Whole-batch output, gradient of the tokens, and gradients of the parameters summed over ranks.
struct Result {
  Tensor y_TE, dx_TE;
  std::vector<std::pair<std::string, Tensor>> parameters;
};

Result run(Context& ctx, const Group& sp, const SoftmaxMixerOptions& options,
           const std::string& strategy, Layout layout) {
  const SequencePlan plan = SequencePlan::make(kDocuments, layout, sp.size(), sp.rank());
  const MixerFactory factory =
      make_mixer_factory({MixerDescriptor{.strategy = strategy, .softmax = options}}, sp, layout);
  ParameterList parameters(ctx, DType::kF32, /*seed=*/1);
  const auto mixer = factory(0, "attn", parameters);
  const Shape shape = {plan.num_tokens(), 24};
  const Variable x_TE =
      Variable::leaf(plan.shard(ctx, random_tensor(ctx, shape, 1).to(DType::kF32)));
  Tape tape;
  ctx.tape = &tape;
  const Variable y_TE = mixer->forward(ctx, x_TE, plan);
  tape.backward(ctx, y_TE, plan.shard(ctx, random_tensor(ctx, shape, 2).to(DType::kF32)));
  ctx.tape = nullptr;
  auto gather = [&](const Tensor& local) {
    const Tensor by_rank = ctx.empty(shape, DType::kF32);
    sp.all_gather("test", local.contiguous(), by_rank, plan.tokens_per_rank()).wait();
    return plan.unshard(ctx, by_rank);
  };
  Result result{
      .y_TE = gather(y_TE.value()), .dx_TE = gather(x_TE.gradient()->sum()), .parameters = {}};
  for (const Parameter& parameter : parameters.all()) {
    Tensor sum = parameter.variable.gradient()->accumulate_into(ctx);
    sp.all_reduce("test", sum).wait();
    result.parameters.emplace_back(parameter.name, sum);
  }
  return result;
}

TEST(SoftmaxMixer, EqualsOneRankInEveryStrategyAndLayout) {
  Context ctx;
  for (const SoftmaxMixerOptions& options : variants()) {
    const Result expected = run(ctx, Group::self(), options, "local", Layout::kContiguous);
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
      const StrategyUse use =
          strategy_use(MixerDescriptor{.softmax = options}, world().size(), layout);
      for (const Strategy* strategy : strategies_for(use)) {
        SCOPED_TRACE(fmt::format("{} {}, gate {}, causal {}, window {}", strategy->name,
                                 layout_name(layout), options.output_gate, options.causal,
                                 options.window));
        const Result found = run(ctx, world(), options, std::string(strategy->name), layout);
        EXPECT_LE(relative_rms(found.y_TE, expected.y_TE), 2e-6);
        EXPECT_LE(relative_rms(found.dx_TE, expected.dx_TE), 2e-6);
        for (size_t i = 0; i < expected.parameters.size(); ++i)
          EXPECT_LE(relative_rms(found.parameters[i].second, expected.parameters[i].second), 1e-5)
              << expected.parameters[i].first;
      }
    }
  }
}

TEST(SoftmaxMixer, LocalIsRefusedOnMoreThanOneRank) {
  auto build = [] {
    make_mixer_factory({MixerDescriptor{.strategy = "local", .softmax = qwen()}}, world(),
                       Layout::kContiguous);
  };
  if (world().size() == 1) {
    build();
  } else {
    testing::expect_error(ErrorCode::kConfig, {"layer 0", "`local`", "choose ulysses or ring"},
                          build);
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
