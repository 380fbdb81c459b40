// Softmax attention of packed documents that GPUs share, by every strategy: against the definition
// of attention in fp64, and against one GPU that holds the whole batch.
// ranks: 2 4
#include <gtest/gtest.h>

#include <map>
#include <span>

#include "attention/registry.h"
#include "parallel/cuda/gpu_runtime.h"
#include "tests/support/gpu_softmax_case.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/softmax_candidates.h"

namespace longship {
namespace {

using testing::AttentionBatch;
using testing::AttentionHeads;
using testing::AttentionResults;
using testing::expect_near;
using testing::gpu_batch;
using testing::kGpuForwardBound;
using testing::kGpuGradientBound;
using testing::kGpuHeads;
using testing::plan_of;
using testing::run_on_one_rank;
using testing::same_bits;
using testing::SoftmaxCandidate;
using testing::world;

constexpr int64_t kWindow = 40;

// One document lies on every one of two or four ranks, and others within one rank.
const std::vector<int64_t> kDocuments = {37, 1, 203, 1, 0, 58, 1};

// Unlimited, and for strategies of windows only a window.
std::vector<AttentionBatch> batches_of(const std::vector<int64_t>& lengths,
                                       AttentionHeads heads = kGpuHeads) {
  return {gpu_batch(lengths, heads), gpu_batch(lengths, heads, {.window = kWindow})};
}

// One GPU of this rank, memory in which an output that was left out is NaN, and kernels.
class Gpus {
 public:
  explicit Gpus(TransportWish transports = TransportWish::kMeasured, bool deterministic = false)
      : runtime_(testing::mpi(), {.transports = transports, .timeout_s = 60}),
        ctx_(runtime_.context()),
        kernel_(make_softmax_kernel({DeviceKind::kCuda, deterministic})),
        candidates_(testing::softmax_candidates(runtime_.world(), *kernel_)) {
    ctx_.memory->set_poison(true);
    ctx_.deterministic = deterministic;
  }

  AttentionResults run(const AttentionBatch& batch, const SoftmaxSchedule& schedule,
                       Layout layout) {
    return testing::run(ctx_, batch, schedule, plan_of(batch, layout, world()), runtime_.world());
  }
  // On this rank's GPU alone, by the same strategy.
  AttentionResults run_on_one(const AttentionBatch& batch, const Strategy& strategy) {
    return run_on_one_rank(ctx_, batch, *strategy.softmax(Group::self(), *kernel_));
  }

  // Calls f(candidate, layout) for all that serve the batch, with a trace for failures.
  template <class F>
  void for_each(const AttentionBatch& batch, std::span<const Layout> layouts, F&& f) const {
    for (const SoftmaxCandidate& candidate : candidates_)
      for (const Layout layout : layouts) {
        const StrategyUse use = testing::use_of(batch.options, world().size(), layout);
        if (!candidate.strategy->refusal(use).empty()) continue;
        SCOPED_TRACE(fmt::format("{} {}, {}, {} heads over {} of {}/{}, cu_seqlens {}",
                                 candidate.name, layout_name(layout),
                                 testing::mask_text(batch.options), batch.q_THD.dim(1),
                                 batch.k_TKD.dim(1), batch.q_THD.dim(2), batch.v_TKV.dim(2),
                                 fmt::join(batch.cu_seqlens, ",")));
        f(candidate, layout);
      }
  }

  void expect_equal(const AttentionBatch& batch, std::span<const Layout> layouts) {
    const AttentionResults expected = testing::definition_of(Context{}, batch);
    std::map<std::string_view, AttentionResults> of_one;
    for_each(batch, layouts, [&](const SoftmaxCandidate& candidate, Layout layout) {
      const AttentionResults found = run(batch, *candidate.schedule, layout);
      EXPECT_EQ(found.o_THV.dtype(), DType::kBF16);
      expect_near(found, expected, kGpuForwardBound, kGpuGradientBound);
      auto& one = of_one[candidate.strategy->name];
      if (!one.o_THV.defined()) one = run_on_one(batch, *candidate.strategy);
      expect_near(found, one, kGpuForwardBound, kGpuGradientBound);
    });
  }

 private:
  GpuRuntime runtime_;
  Context ctx_;
  std::unique_ptr<const SoftmaxBlock> kernel_;
  std::vector<SoftmaxCandidate> candidates_;
};

constexpr Layout kLayouts[] = {Layout::kContiguous, Layout::kZigzag};

class SoftmaxOnGpus : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { gpus_ = std::make_unique<Gpus>(); }
  static void TearDownTestSuite() { gpus_.reset(); }

  static void expect_equal(const AttentionBatch& batch,
                           std::span<const Layout> layouts = kLayouts) {
    gpus_->expect_equal(batch, layouts);
  }

 private:
  static inline std::unique_ptr<Gpus> gpus_;  // kept from test to test: graphs take time to build
};

TEST_F(SoftmaxOnGpus, EqualsOneGpuUnderEveryMask) {
  Context host;
  const Variable sink_logit_H = testing::random_tensor(host, {kGpuHeads.query}, 9).to(DType::kF32);
  for (const AttentionOptions& options : testing::all_masks(1, sink_logit_H, 11))
    expect_equal(gpu_batch(kDocuments, kGpuHeads, options));
}

TEST_F(SoftmaxOnGpus, EqualsOneGpuForPackedDocuments) {
  std::vector<int64_t> ones(77, 1);
  ones[40] = 3;
  for (const std::vector<int64_t>& lengths :
       {std::vector<int64_t>{333}, {5, 0, 130, 1, 131, 0}, ones, {0, 1, 2}, {1}})
    for (const AttentionBatch& batch : batches_of(lengths)) expect_equal(batch);
}

// As where a prompt fills a whole shard: nothing comes back to these queries.
TEST_F(SoftmaxOnGpus, EqualsOneGpuWhereRanksHaveNoLossToken) {
  for (const bool late : {false, true})
    for (const AttentionBatch& batch : batches_of(kDocuments)) {
      const int64_t T = batch.do_THV.dim(0), half = T / 2;
      batch.do_THV.slice(0, late ? half : 0, late ? T - half : half).fill_zero();
      expect_equal(batch);
    }
}

// A key/value head for all ranks, shares of heads that are not alike, fewer heads than ranks, and
// enough of them to travel in groups.
TEST_F(SoftmaxOnGpus, EqualsOneGpuForEveryNumberOfHeads) {
  for (const AttentionHeads heads : {AttentionHeads{8, 1, 64, 64},
                                     {6, 3, 64, 64},
                                     {5, 5, 64, 64},
                                     {1, 1, 64, 64},
                                     {24, 12, 64, 64}})
    for (const AttentionBatch& batch : batches_of(kDocuments, heads)) expect_equal(batch);
}

TEST_F(SoftmaxOnGpus, EqualsOneGpuForEveryHeadSize) {
  for (const AttentionHeads heads :
       {AttentionHeads{4, 2, 96, 96}, {4, 2, 128, 128}, {4, 4, 192, 128}, {4, 2, 256, 256}})
    for (const AttentionBatch& batch : batches_of({130, 1, 90}, heads)) {
      const Layout layout = batch.options.window > 0 ? Layout::kContiguous : Layout::kZigzag;
      expect_equal(batch, {&layout, 1});
    }
}

TEST(SoftmaxByEveryTransport, EqualsOneGpu) {
  for (const TransportWish transports : {TransportWish::kPeerCopies, TransportWish::kNccl}) {
    Gpus gpus(transports);
    for (const AttentionBatch& batch : batches_of(kDocuments)) gpus.expect_equal(batch, kLayouts);
  }
}

TEST(DeterministicSoftmax, GivesTheSameBitsAgain) {
  Gpus gpus(TransportWish::kMeasured, /*deterministic=*/true);
  for (const AttentionBatch& batch : batches_of(kDocuments)) {
    gpus.expect_equal(batch, kLayouts);
    gpus.for_each(batch, kLayouts, [&](const SoftmaxCandidate& candidate, Layout layout) {
      auto results = [&] { return gpus.run(batch, *candidate.schedule, layout); };
      EXPECT_TRUE(same_bits(results(), results()));
    });
  }
}

// A rank sees the heads that are its own as one GPU sees them, and sums of them have no other
// order.
TEST(DeterministicSoftmax, OfWholeHeadsHasTheBitsOfOneGpu) {
  Gpus gpus(TransportWish::kMeasured, /*deterministic=*/true);
  constexpr Layout kContiguous[] = {Layout::kContiguous};
  const std::string all_ulysses = fmt::format("usp of degree {}", world().size());
  for (const AttentionHeads heads : {AttentionHeads{4, 4, 64, 64}, {8, 4, 128, 128}})
    for (const AttentionBatch& batch : batches_of(kDocuments, heads))
      gpus.for_each(batch, kContiguous, [&](const SoftmaxCandidate& candidate, Layout layout) {
        if (candidate.name != "ulysses" && candidate.name != all_ulysses) return;
        EXPECT_TRUE(same_bits(gpus.run(batch, *candidate.schedule, layout),
                              gpus.run_on_one(batch, *candidate.strategy)));
      });
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
