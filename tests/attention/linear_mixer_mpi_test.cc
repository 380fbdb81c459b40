// Linear mixers that share a sequence against the mixer of one rank that holds all of it.
// ranks: 1 2 3 4 8
#include "attention/linear/linear_mixer.h"

#include <gtest/gtest.h>

#include "attention/linear/linear_schedule.h"
#include "tests/attention/linear/linear_mixer_variants.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mixer_model.h"
#include "tests/support/mpi_main.h"
#include "tests/support/whole_batch.h"

namespace longship {
namespace {

using testing::linear_variants;
using testing::MixerModel;
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

struct Job {
  LinearMixerOptions options;
  Group sp;
  SharedSchedule schedule;
  Layout layout = Layout::kContiguous;
};

MixerModel model_of(const Job& job) {
  return {[&](ParameterList& parameters) {
            return std::make_unique<LinearMixer>(
                job.options, "layer", parameters,
                LinearMixerResources{.schedule = job.schedule,
                                     .sp = job.sp,
                                     .rope_angles = std::make_shared<SharedRopeAngles>()});
          },
          job.options.hidden_size, DType::kF32,
          SequencePlan::make(kDocuments, job.layout, job.sp.size(), job.sp.rank())};
}

testing::MixerResults results_of(const Job& job) {
  MixerModel model = model_of(job);
  return testing::whole_results(model, job.sp);
}

TEST(LinearMixer, EqualsOneRankForPackedDocuments) {
  const SharedSchedule alone = make_linear_carry(make_local_states());
  for (const auto& [name, options] : linear_variants()) {
    if (name != "Qwen3-Next" && name != "Mamba-2" && name != "Kimi Linear" &&
        name != "MiniCPM-SALA" && name != "BASED")
      continue;
    const auto expected = results_of({options, Group::self(), alone});
    for (const auto& [strategy, schedule] : schedules())
      for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
        SCOPED_TRACE(fmt::format("{} {} {}", name, strategy, layout_name(layout)));
        const auto found = results_of({options, world(), schedule, layout});
        for (size_t i = 0; i < expected.size(); ++i)
          EXPECT_LE(relative_rms(found[i].second, expected[i].second), i == 0 ? 2e-6 : 1e-5)
              << expected[i].first;
      }
  }
}

TEST(LinearMixer, ConvolvesQueriesKeysAndValuesInOneExchangeEachWay) {
  int num_convolved = 0;
  for (const auto& [name, options] : linear_variants()) {
    if (options.conv_size < 2) continue;
    MixerModel model = model_of({options, world(), schedules()[0].second});
    world().reset_stats();
    model.forward_and_backward();
    const CommStats stats = world().stats();
    EXPECT_EQ(stats.by_label.at("convolution.fwd").num_calls, 1) << name;
    EXPECT_EQ(stats.by_label.at("convolution.bwd").num_calls, 1) << name;
    ++num_convolved;
  }
  EXPECT_GE(num_convolved, 3);
}

// Short convolution, gates and states all stop at the borders of documents.
TEST(LinearMixer, TokenChangesOnlyLaterPositionsOfItsDocument) {
  constexpr int64_t kChanged = 148;  // near the end of the document [1, 150)
  for (const auto& [name, options] : linear_variants()) {
    if (name != "Qwen3-Next" && name != "Mamba-2") continue;
    for (const auto& [strategy, schedule] : schedules()) {
      MixerModel model = model_of({options, world(), schedule, Layout::kZigzag});
      auto outputs = [&] { return testing::whole_results(model, world())[0].second; };
      const Tensor before = outputs();
      for (const Segment& segment : model.plan.local_segments())
        if (segment.global_begin <= kChanged && kChanged < segment.global_begin + segment.length)
          model.x_TE.value()
              .slice(0, segment.slot + kChanged - segment.global_begin, 1)
              .data<float>()[0] += 1;
      EXPECT_EQ(testing::changed_tokens(before, outputs()), testing::token_range(kChanged, 150))
          << name << " " << strategy;
    }
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
