// Latent attention that shares a sequence against the mixer of one rank that holds all of it.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include "attention/latent_mixer.h"
#include "attention/softmax_cpu.h"
#include "parallel/visible_rows.h"
#include "runtime/random.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mixer_model.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/op_check.h"
#include "tests/support/whole_batch.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::changed_tokens;
using testing::MixerModel;
using testing::relative_rms;
using testing::token_range;
using testing::whole_results;
using testing::world;

const SoftmaxCpu kKernel;
const std::vector<Layout> kLayouts = {Layout::kContiguous, Layout::kZigzag};

LatentMixerOptions small() {
  return {.hidden_size = 12,
          .num_heads = 3,
          .q_lora_rank = 8,
          .kv_lora_rank = 7,
          .qk_nope_head_size = 6,
          .qk_rope_head_size = 4,
          .v_head_size = 5,
          .init_std = 0.4};
}

LatentMixerOptions large_heads() {
  return {.hidden_size = 12,
          .num_heads = 2,
          .kv_lora_rank = 40,
          .qk_nope_head_size = 128,
          .qk_rope_head_size = 64,
          .v_head_size = 128,
          .rope_theta = 0,
          .init_std = 0.1};
}

std::shared_ptr<const LatentSchedule> schedule_of(const std::string& strategy, const Group& sp) {
  if (strategy == "gather_latent") return make_gather_latent(sp, kKernel);
  if (strategy == "gather_latent by 2") return make_gather_latent(sp, kKernel, 2);
  if (strategy == "ring") return make_expanded_latent(make_ring(sp, kKernel));
  if (strategy == "token_ring") return make_expanded_latent(make_token_ring(sp, kKernel));
  if (strategy == "gather_kv") return make_expanded_latent(make_gather_kv(sp, kKernel));
  LONGSHIP_CHECK(strategy == "ulysses", "strategy {}", strategy);
  return make_expanded_latent(make_ulysses(sp, kKernel));
}

const std::vector<std::string> kStrategies = {"gather_latent", "gather_latent by 2", "ring",
                                              "token_ring",    "gather_kv",          "ulysses"};

std::vector<std::vector<int64_t>> batches() {
  std::vector<int64_t> random = {0};
  for (uint64_t d = 0; d < 8; ++d)
    random.push_back(random.back() +
                     static_cast<int64_t>(d % 3 == 0 ? 1 : uniform_index(2, 7, d, 17)));
  return {{0, 61},                    // one document
          random,                     // random documents, some of one token
          {0, 3, 3, 53, 54, 61, 61},  // one over at least four of four or more ranks
          {0, 2, 3}};                 // fewer tokens than ranks
}

MixerModel model_of(const LatentMixerOptions& options, const std::string& strategy, const Group& sp,
                    const std::vector<int64_t>& cu_seqlens, Layout layout, DType dtype) {
  return {[&](ParameterList& parameters) {
            return std::make_unique<LatentMixer>(options, "layer", parameters,
                                                 schedule_of(strategy, sp),
                                                 std::make_shared<SharedRopeAngles>());
          },
          options.hidden_size, dtype, SequencePlan::make(cu_seqlens, layout, sp.size(), sp.rank())};
}

void expect_equal_to_one_rank(const LatentMixerOptions& options,
                              const std::vector<int64_t>& cu_seqlens, DType dtype, double bound) {
  MixerModel alone =
      model_of(options, "gather_latent", Group::self(), cu_seqlens, Layout::kContiguous, dtype);
  const auto expected = whole_results(alone, Group::self());
  for (const std::string& strategy : kStrategies)
    for (Layout layout : kLayouts) {
      MixerModel shared = model_of(options, strategy, world(), cu_seqlens, layout, dtype);
      const auto found = whole_results(shared, world());
      for (size_t i = 0; i < expected.size(); ++i)
        EXPECT_LE(relative_rms(found[i].second, expected[i].second), bound)
            << strategy << ", " << layout_name(layout) << ", cu_seqlens "
            << fmt::format("{}", fmt::join(cu_seqlens, ",")) << ": " << expected[i].first;
    }
}

TEST(LatentMixer, EqualsOneRankInEveryStrategyAndLayout) {
  for (const auto& cu_seqlens : batches()) {
    expect_equal_to_one_rank(small(), cu_seqlens, DType::kF64, 1e-12);
    expect_equal_to_one_rank(small(), cu_seqlens, DType::kF32, 1e-5);
  }
}

TEST(LatentMixer, EqualsOneRankWithHeadsOf192And128) {
  for (const auto& cu_seqlens : {batches()[0], batches()[2]})
    expect_equal_to_one_rank(large_heads(), cu_seqlens, DType::kF32, 1e-5);
}

TEST(LatentMixer, TwoRunsGiveTheSameBits) {
  for (const std::string& strategy : kStrategies) {
    auto once = [&] {
      MixerModel model =
          model_of(small(), strategy, world(), batches()[1], Layout::kZigzag, DType::kBF16);
      return whole_results(model, world());
    };
    const auto first = once(), second = once();
    for (size_t i = 0; i < first.size(); ++i)
      EXPECT_TRUE(bitwise_equal(first[i].second, second[i].second))
          << strategy << ": " << first[i].first;
  }
}

// What a token holds reaches the tokens of its document from itself on, and no others; what the
// gradient of a token's output holds reaches those up to itself.
TEST(LatentMixer, NothingLeaksToOtherDocumentsOrBackInTime) {
  const std::vector<int64_t> cu_seqlens = {0, 11, 12, 40, 47};
  const int64_t probe = 20;
  for (const std::string& strategy : kStrategies)
    for (Layout layout : kLayouts) {
      auto run = [&](bool change_x, bool change_dy) {
        MixerModel model = model_of(small(), strategy, world(), cu_seqlens, layout, DType::kF32);
        for (const Segment& segment : model.plan.local_segments())
          if (segment.global_begin <= probe && probe < segment.global_begin + segment.length) {
            const int64_t row = (segment.slot + probe - segment.global_begin) * 12;
            if (change_x) model.x_TE.value().data<float>()[row] += 3;
            if (change_dy) model.dy_TE.data<float>()[row] += 3;
          }
        return whole_results(model, world());
      };
      const auto plain = run(false, false);
      EXPECT_EQ(changed_tokens(plain[0].second, run(true, false)[0].second), token_range(probe, 40))
          << strategy << " " << layout_name(layout);
      EXPECT_EQ(changed_tokens(plain[1].second, run(false, true)[1].second),
                token_range(12, probe + 1))
          << strategy << " " << layout_name(layout);
    }
}

int64_t gathered_rows(const SequencePlan& plan, int by, int from) {
  const Visibility visibility(plan);
  int64_t rows = 0;
  for (RowRange range : visibility.keys(by, from)) rows += range.count;
  return rows;
}

TEST(GatherLatent, SendsTheLatentsOfVisibleRowsAndReturnsTheirGradients) {
  const LatentMixerOptions options = small();
  const int64_t L = options.kv_lora_rank + options.qk_rope_head_size;
  for (const auto& cu_seqlens : batches())
    for (Layout layout : kLayouts)
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        MixerModel model = model_of(options, "gather_latent", world(), cu_seqlens, layout, dtype);
        const int64_t e = dtype_size(dtype), rank = world().rank(), P = world().size();
        int64_t gathered = 0, returned = 0;
        for (int peer = 0; peer < world().size(); ++peer) {
          if (peer == rank) continue;
          gathered += gathered_rows(model.plan, peer, world().rank()) * L * e;
          returned += gathered_rows(model.plan, world().rank(), peer) * L * 4;
        }
        world().reset_stats();
        model.forward_and_backward();
        const CommStats stats = world().stats();
        EXPECT_EQ(stats.sent_bytes("gather_latent.fwd"), gathered);
        EXPECT_EQ(stats.sent_bytes("gather_latent.bwd"), gathered + returned);
        EXPECT_EQ(stats.total_sent_bytes(), 2 * gathered + returned);
        EXPECT_LE(gathered, (P - 1) * model.plan.num_local_tokens() * L * e);
      }
}

// Of one document the last rank of the contiguous layout gathers all others' latents and no other
// rank needs its own; on the zigzag layout, every rank sends its first chunk to all.
TEST(GatherLatent, SendsAtMostOneLatentPerTokenToEachRank) {
  const int64_t P = world().size(), s = 8, L = 11, e = 4;
  const std::vector<int64_t> one_document = {0, P * s};
  auto sent = [&](Layout layout) {
    MixerModel model =
        model_of(small(), "gather_latent", world(), one_document, layout, DType::kF32);
    world().reset_stats();
    model.mixer->forward(model.ctx, model.x_TE, model.plan);
    return world().stats().sent_bytes("gather_latent.fwd");
  };
  const int64_t rank = world().rank();
  EXPECT_EQ(sent(Layout::kContiguous), (P - 1 - rank) * s * L * e);
  EXPECT_EQ(sent(Layout::kZigzag), (rank * s + (P - 1 - rank) * s / 2) * L * e);
}

// Keys and values of one group of heads are here at a time, however many heads there are.
TEST(GatherLatent, PeakMemoryIsThatOfOneGroupOfHeads) {
  const int64_t P = world().size(), s = 64, C = 8, R = 4, N = 12, V = 16, L = C + R, D = N + R;
  Context ctx;
  const auto plan = SequencePlan::make({0, s * P}, Layout::kZigzag, world().size(), world().rank());
  int64_t rows = 0;
  for (int peer = 0; peer < world().size(); ++peer)
    rows += gathered_rows(plan, world().rank(), peer);
  const testing::NaiveSoftmax kernel;  // without scratch of its own
  const auto schedule = make_gather_latent(world(), kernel);
  for (int64_t H : {2, 8}) {
    auto tensor = [&](Shape shape) {
      return Variable::leaf(testing::random_tensor(ctx, std::move(shape), 1).to(DType::kF32));
    };
    const LatentAttentionInput input{tensor({s, H, D}), tensor({s, L}), tensor({H * (N + V), C}),
                                     0.3};
    const Tensor do_THV = testing::random_tensor(ctx, {s, H, V}, 2).to(DType::kF32);
    Tape tape;
    ctx.tape = &tape;
    auto peak_of = [&](auto&& f) {
      const int64_t before = ctx.memory->live_bytes();
      ctx.memory->reset_peak();
      f();
      return ctx.memory->peak_bytes() - before;
    };
    Variable o;
    const int64_t forward = peak_of([&] { o = schedule->attend(ctx, input, plan); });
    const int64_t backward = peak_of([&] { tape.backward(ctx, o, do_THV); });
    ctx.tape = nullptr;
    // Latents, keys, values, and q, o and lse of one head; o and lse of all.
    const int64_t group = rows * (L + D + V) + s * (D + V + 1);
    EXPECT_LE(forward, 4 * (group + s * H * (V + 1)) * 9 / 8 + 4096) << H << " heads";
    // The gradients of these too, those of the latents that arrive, dq, delta and the leaves'.
    const int64_t gradients = rows * (L + D + V) + (P + 2) * s * L + s * (2 * D + V + 2);
    EXPECT_LE(backward,
              4 * (group + gradients + 2 * s * H * D + s * H + H * (N + V) * C) * 9 / 8 + 4096)
        << H << " heads";
  }
}

TEST(GatherLatent, RefusesAPlanOfOtherRanks) {
  MixerModel model =
      model_of(small(), "gather_latent", world(), {0, 24}, Layout::kContiguous, DType::kF32);
  const SequencePlan other =
      SequencePlan::make({0, 24}, Layout::kContiguous, world().size() + 1, world().rank());
  const Variable x_TE =
      other.shard(model.ctx, testing::random_tensor(model.ctx, {24, 12}, 1)).to(DType::kF32);
  EXPECT_THROW(model.mixer->forward(model.ctx, x_TE, other), Error);
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
