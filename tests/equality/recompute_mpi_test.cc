// ranks: 1 2 3
// Whole models whose blocks run again in the backward: softmax attention runs once, and the
// gradients are those of keeping everything, bit by bit.
#include <gtest/gtest.h>

#include <map>

#include "attention/softmax_cpu.h"
#include "attention/softmax_mixer.h"
#include "tests/support/model_step.h"
#include "tests/support/mpi_main.h"
#include "tests/support/noting_softmax.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::make_sample;
using testing::NotingSoftmax;
using testing::Sample;
using testing::world;

constexpr int kNumLayers = 3;

using MakeSchedule = std::unique_ptr<SoftmaxSchedule> (*)(const SoftmaxBlock& kernel);

struct Outcome {
  std::vector<Tensor> tensors;                // loss, then gradients
  int64_t num_forward = 0, num_backward = 0;  // blocks
  int64_t forward_bytes = 0;  // sent by all ranks under the label of the strategy's forward
  int64_t peak_bytes = 0;
};

Outcome run(const std::string& strategy, MakeSchedule make_schedule, Recompute level,
            DType dtype = DType::kF32, int64_t num_kv_heads = 3) {
  Context ctx;
  const TransformerShape shape{.vocab_size = 17,
                               .hidden_size = 24,
                               .intermediate_size = 32,
                               .num_layers = kNumLayers,
                               .init_std = 0.2,
                               .recompute = level,
                               .loss_chunk_tokens = 16};
  const SoftmaxCpu cpu;
  const NotingSoftmax kernel(cpu);
  const std::shared_ptr<const SoftmaxSchedule> schedule = make_schedule(kernel);
  const auto angles = std::make_shared<SharedRopeAngles>();
  const MixerFactory make_mixer = [&](int64_t, const std::string& prefix,
                                      ParameterList& parameters) {
    return std::make_unique<SoftmaxMixer>(SoftmaxMixerOptions{.hidden_size = 24,
                                                              .num_heads = 2 * num_kv_heads,
                                                              .num_kv_heads = num_kv_heads,
                                                              .head_size = 4,
                                                              .qk_norm = true,
                                                              .window = 9,
                                                              .sink_logits = true,
                                                              .init_std = 0.2,
                                                              .num_layers = kNumLayers},
                                          prefix, parameters, schedule, angles);
  };
  ParameterList parameters(ctx, dtype, 3);
  Transformer transformer(shape, make_mixer, parameters);
  const Sample sample = make_sample(ctx, {29, 1, 34}, 5, 17);
  const SequencePlan plan = sample.plan(Layout::kContiguous, world());
  const Tensor tokens_T = plan.shard(ctx, sample.tokens_S);
  const Tensor targets_T = plan.shard(ctx, sample.targets_S);
  const Tensor weights_T = plan.shard(ctx, sample.weights_S);

  auto sent = [&] {
    const CommStats stats = world().stats();
    const auto it = stats.by_label.find(strategy + ".fwd");
    const int64_t bytes = it == stats.by_label.end() ? 0 : it->second.sent_bytes;
    return world().all_reduce_value("test.sent", bytes, ReduceOp::kSum);
  };
  const int64_t bytes_before = sent(), live = ctx.memory->live_bytes();
  ctx.memory->reset_peak();
  Tape tape;
  ctx.tape = &tape;
  const Variable loss = transformer.loss_sum(ctx, tokens_T, targets_T, weights_T, plan);
  tape.backward(ctx, loss);

  Outcome outcome{.tensors = {loss.value()},
                  .num_forward = std::ssize(kernel.forward_notes),
                  .num_backward = std::ssize(kernel.backward_notes),
                  .forward_bytes = sent() - bytes_before,
                  .peak_bytes = ctx.memory->peak_bytes() - live};
  for (const Parameter& parameter : parameters.all())
    outcome.tensors.push_back(parameter.variable.gradient()->sum());
  return outcome;
}

void expect_same_bits(const Outcome& a, const Outcome& b) {
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (size_t i = 0; i < a.tensors.size(); ++i)
    EXPECT_TRUE(bitwise_equal(a.tensors[i], b.tensors[i])) << "tensor " << i;
}

const std::map<std::string, MakeSchedule> kResident = {
    {"ring", [](const SoftmaxBlock& kernel) { return make_ring(world(), kernel); }},
    {"token_ring", [](const SoftmaxBlock& kernel) { return make_token_ring(world(), kernel); }},
    {"gather_kv", [](const SoftmaxBlock& kernel) { return make_gather_kv(world(), kernel); }},
    {"halo", [](const SoftmaxBlock& kernel) { return make_halo(world(), kernel); }},
    {"lightseq", [](const SoftmaxBlock& kernel) { return make_lightseq(world(), kernel); }}};

TEST(Recompute, RunsResidentAttentionOnceAndSendsItsForwardOnce) {
  for (const auto& [name, make] : kResident) {
    SCOPED_TRACE(name);
    const Outcome kept = run(name, make, Recompute::kNone);
    if (world().size() > 1) {
      EXPECT_GT(kept.forward_bytes, 0);
    }
    for (Recompute level : {Recompute::kSelective, Recompute::kBlock}) {
      const Outcome again = run(name, make, level);
      expect_same_bits(again, kept);
      EXPECT_EQ(again.num_forward, kept.num_forward);
      EXPECT_EQ(again.num_backward, kept.num_backward);
      EXPECT_EQ(again.forward_bytes, kept.forward_bytes);
      EXPECT_LT(again.peak_bytes, kept.peak_bytes);
    }
  }
}

TEST(Recompute, RunsAttentionOfWholeHeadsOnceAndRepeatsItsAllToAlls) {
  const std::map<std::string, MakeSchedule> kOfWholeHeads = {
      {"ulysses", [](const SoftmaxBlock& kernel) { return make_ulysses(world(), kernel); }},
      {"usp", [](const SoftmaxBlock& kernel) { return make_usp(world(), kernel); }}};
  for (const auto& [name, make] : kOfWholeHeads) {
    SCOPED_TRACE(name);
    const Outcome kept = run(name, make, Recompute::kNone);
    EXPECT_EQ(kept.num_forward % kNumLayers, 0);
    for (Recompute level : {Recompute::kSelective, Recompute::kBlock}) {
      const Outcome again = run(name, make, level);
      expect_same_bits(again, kept);
      EXPECT_EQ(again.num_forward, kept.num_forward);
      EXPECT_EQ(again.num_backward, kept.num_backward);
      EXPECT_LE(again.forward_bytes, 2 * kept.forward_bytes);
    }
  }
}

TEST(Recompute, GivesTheSameBitsWithHeadsInGroups) {
  const std::map<std::string, MakeSchedule> kGrouped = {
      {"ulysses",
       [](const SoftmaxBlock& kernel) {
         return make_ulysses(world(), kernel, {.max_head_groups = 2});
       }},
      {"usp", [](const SoftmaxBlock& kernel) {
         return make_usp(world(), kernel, {.max_head_groups = 3});
       }}};
  constexpr int64_t kKvHeads = 6;
  for (const auto& [name, make] : kGrouped) {
    SCOPED_TRACE(name);
    const Outcome kept = run(name, make, Recompute::kNone, DType::kF32, kKvHeads);
    const int num_groups = world().size() == 1 ? 1 : world().size() == 2 && name == "usp" ? 3 : 2;
    EXPECT_EQ(kept.num_forward, num_groups * kNumLayers);
    for (Recompute level : {Recompute::kSelective, Recompute::kBlock}) {
      const Outcome again = run(name, make, level, DType::kF32, kKvHeads);
      expect_same_bits(again, kept);
      EXPECT_EQ(again.num_forward, kept.num_forward);
      EXPECT_EQ(again.num_backward, kept.num_backward);
      EXPECT_LE(again.forward_bytes, 2 * kept.forward_bytes);
    }
  }
}

TEST(Recompute, GivesTheSameBitsInBf16) {
  const MakeSchedule make = kResident.at("ring");
  const Outcome kept = run("ring", make, Recompute::kNone, DType::kBF16);
  for (Recompute level : {Recompute::kSelective, Recompute::kBlock})
    expect_same_bits(run("ring", make, level, DType::kBF16), kept);
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
