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

MixerDescriptor descriptor(const std::string& strategy) {
  return {.strategy = strategy,
          .softmax = {.hidden_size = 24,
                      .num_heads = 6,
                      .num_kv_heads = 2,
                      .head_size = 16,
                      .qkv_bias = true,
                      .qk_norm = true,
                      .init_std = 0.2}};
}

// Whole-batch output, gradient of the tokens, and gradients of the parameters summed over ranks.
struct Result {
  Tensor y_TE, dx_TE;
  std::vector<std::pair<std::string, Tensor>> parameters;
};

Result run(Context& ctx, const Group& sp, const std::string& strategy, Layout layout) {
  const SequencePlan plan = SequencePlan::make(kDocuments, layout, sp.size(), sp.rank());
  const MixerFactory factory = make_mixer_factory({descriptor(strategy)}, sp, layout);
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
  const Result expected = run(ctx, Group::self(), "local", Layout::kContiguous);
  for (const std::string strategy : {"ulysses", "ring", "token_ring", "gather_kv", "usp"})
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
      SCOPED_TRACE(fmt::format("{} {}", strategy, layout_name(layout)));
      const Result found = run(ctx, world(), strategy, layout);
      EXPECT_LE(relative_rms(found.y_TE, expected.y_TE), 2e-6);
      EXPECT_LE(relative_rms(found.dx_TE, expected.dx_TE), 2e-6);
      for (size_t i = 0; i < expected.parameters.size(); ++i)
        EXPECT_LE(relative_rms(found.parameters[i].second, expected.parameters[i].second), 1e-5)
            << expected.parameters[i].first;
    }
}

TEST(SoftmaxMixer, LocalIsRefusedOnMoreThanOneRank) {
  auto build = [] { make_mixer_factory({descriptor("local")}, world(), Layout::kContiguous); };
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
