// Linear mixers that share a sequence against the mixer of one rank that holds all of it.
// ranks: 1 2 3 4 8
#include "attention/linear/linear_mixer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "attention/linear/linear_schedule.h"
#include "tests/attention/linear/linear_mixer_variants.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::linear_variants;
using testing::random_tensor;
using testing::relative_rms;
using testing::world;

const std::vector<int64_t> kDocuments = {0, 1, 150, 150, 157, 241};

using SharedSchedule = std::shared_ptr<const LinearSchedule>;

// Made once: All-Scan splits a group off.
const std::vector<std::pair<std::string, SharedSchedule>>& schedules() {
  static const std::vector<std::pair<std::string, SharedSchedule>> all = {
      {"lasp2", make_linear_carry(make_lasp2(world()))},
      {"zeco", make_linear_carry(make_zeco(world(), {.num_blocks = 3}))},
      {"ulysses", make_linear_ulysses(world())}};
  return all;
}

// Whole-batch output, dy . y and the size of its terms, gradient of the tokens, and gradients of
// the parameters summed over ranks.
struct Result {
  Tensor y_TE, dx_TE;
  double loss = 0, loss_terms = 0;
  std::vector<std::pair<std::string, Tensor>> parameters;
};

struct Job {
  LinearMixerOptions options;
  Group sp;
  SharedSchedule schedule;
  Layout layout = Layout::kContiguous;
  int64_t changed_token = -1;  // this token is another one
};

Result result_of(Context& ctx, const Job& job) {
  const SequencePlan plan =
      SequencePlan::make(kDocuments, job.layout, job.sp.size(), job.sp.rank());
  ParameterList parameters(ctx, DType::kF32, /*seed=*/1);
  LinearMixer mixer(job.options, "layer", parameters,
                    {.schedule = job.schedule,
                     .sp = job.sp,
                     .rope_angles = std::make_shared<SharedRopeAngles>()});
  const Shape shape = {plan.num_tokens(), job.options.hidden_size};
  const Tensor whole_x = random_tensor(ctx, shape, 1), whole_dy = random_tensor(ctx, shape, 2);
  if (job.changed_token >= 0)
    whole_x.data<double>()[job.changed_token * job.options.hidden_size] += 1;
  const Variable x_TE = Variable::leaf(plan.shard(ctx, whole_x.to(DType::kF32)));
  Tape tape;
  ctx.tape = &tape;
  const Variable y_TE = mixer.forward(ctx, x_TE, plan);
  tape.backward(ctx, y_TE, plan.shard(ctx, whole_dy.to(DType::kF32)));
  ctx.tape = nullptr;
  auto gather = [&](const Tensor& local) {
    const Tensor by_rank = ctx.empty(shape, DType::kF32);
    job.sp.all_gather("test", local.contiguous(), by_rank, plan.tokens_per_rank()).wait();
    return plan.unshard(ctx, by_rank);
  };
  Result result{
      .y_TE = gather(y_TE.value()), .dx_TE = gather(x_TE.gradient()->sum()), .parameters = {}};
  for (int64_t i = 0; i < result.y_TE.numel(); ++i) {
    const double term =
        static_cast<double>(result.y_TE.data<float>()[i]) * whole_dy.data<double>()[i];
    result.loss += term;
    result.loss_terms += std::abs(term);
  }
  for (const Parameter& parameter : parameters.all()) {
    const Tensor sum = parameter.variable.gradient()->accumulate_into(ctx);
    job.sp.all_reduce("test", sum).wait();
    result.parameters.emplace_back(parameter.name, sum);
  }
  return result;
}

TEST(LinearMixer, EqualsOneRankForPackedDocuments) {
  Context ctx;
  const SharedSchedule alone = make_linear_carry(make_local_states());
  for (const auto& [name, options] : linear_variants()) {
    if (name != "Qwen3-Next" && name != "Mamba-2" && name != "Kimi Linear" &&
        name != "MiniCPM-SALA" && name != "BASED")
      continue;
    const Result expected = result_of(ctx, {options, Group::self(), alone});
    for (const auto& [strategy, schedule] : schedules())
      for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
        SCOPED_TRACE(fmt::format("{} {} {}", name, strategy, layout_name(layout)));
        const Result found = result_of(ctx, {options, world(), schedule, layout});
        EXPECT_NEAR(found.loss, expected.loss, 1e-6 * expected.loss_terms);
        EXPECT_LE(relative_rms(found.y_TE, expected.y_TE), 2e-6);
        EXPECT_LE(relative_rms(found.dx_TE, expected.dx_TE), 1e-5);
        for (size_t i = 0; i < expected.parameters.size(); ++i)
          EXPECT_LE(relative_rms(found.parameters[i].second, expected.parameters[i].second), 1e-5)
              << expected.parameters[i].first;
      }
  }
}

TEST(LinearMixer, ConvolvesQueriesKeysAndValuesInOneExchangeEachWay) {
  Context ctx;
  int num_convolved = 0;
  for (const auto& [name, options] : linear_variants()) {
    if (options.conv_size < 2) continue;
    world().reset_stats();
    result_of(ctx, {options, world(), schedules()[0].second});
    const CommStats stats = world().stats();
    EXPECT_EQ(stats.by_label.at("convolution.fwd").num_calls, 1) << name;
    EXPECT_EQ(stats.by_label.at("convolution.bwd").num_calls, 1) << name;
    ++num_convolved;
  }
  EXPECT_GE(num_convolved, 3);
}

// Short convolution, gates and states all stop at the borders of documents.
TEST(LinearMixer, TokenChangesOnlyLaterPositionsOfItsDocument) {
  Context ctx;
  constexpr int64_t kChanged = 148;  // near the end of the document [1, 150)
  for (const auto& [name, options] : linear_variants()) {
    if (name != "Qwen3-Next" && name != "Mamba-2") continue;
    for (const auto& [strategy, schedule] : schedules()) {
      const Job job{options, world(), schedule, Layout::kZigzag};
      Job changed = job;
      changed.changed_token = kChanged;
      const Tensor before = result_of(ctx, job).y_TE, after = result_of(ctx, changed).y_TE;
      for (int64_t token = 0; token < before.dim(0); ++token) {
        const bool same =
            std::memcmp(before.slice(0, token, 1).raw(), after.slice(0, token, 1).raw(),
                        static_cast<size_t>(before.dim(1)) * sizeof(float)) == 0;
        EXPECT_EQ(same, token < kChanged || token >= 150)
            << name << " " << strategy << " token " << token;
      }
    }
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
