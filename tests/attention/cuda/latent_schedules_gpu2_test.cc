// Latent attention of packed documents that GPUs share, by every strategy: against fp64 on the CPU
// and against one GPU that holds the whole batch.
// ranks: 2 4
#include <gtest/gtest.h>

#include <cmath>

#include "attention/registry.h"
#include "parallel/cuda/gpu_runtime.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_softmax.h"
#include "tests/support/op_check.h"
#include "tests/support/softmax_case.h"
#include "tests/support/whole_batch.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::cu_seqlens_of;
using testing::gather;
using testing::relative_rms;
using testing::world;

// As for softmax attention, and keys, values and their gradients are rounded to bf16 between the
// expansion and attention.
constexpr double kForwardBound = 8e-3, kGradientBound = 1.6e-2;

// As in DeepSeek-V2, but for the number of heads and the size of the latent.
constexpr int64_t kHeads = 4, kLatent = 96, kShared = 64, kNope = 128, kValue = 128;

// A whole batch on the host, of values that bf16 holds exactly.
struct Batch {
  std::vector<int64_t> cu_seqlens;
  Tensor q_THD, latent_TL, expand_OC, do_THV;

  explicit Batch(const std::vector<int64_t>& lengths) : cu_seqlens(cu_seqlens_of(lengths)) {
    const int64_t T = cu_seqlens.back();
    auto random = [](Shape shape, uint64_t seed, double scale = 1.0) {
      Context host;
      return testing::random_tensor(host, std::move(shape), seed, scale).to(DType::kBF16);
    };
    q_THD = random({T, kHeads, kNope + kShared}, 1);
    latent_TL = random({T, kLatent + kShared}, 2);
    // Keys and values near standard normals.
    expand_OC = random({kHeads * (kNope + kValue), kLatent}, 3, 1 / std::sqrt(double{kLatent}));
    do_THV = random({T, kHeads, kValue}, 4);
  }
};

// o, dq, dlatent, dexpand of the whole batch, on the host.
using Results = std::vector<Tensor>;
constexpr const char* kNames[] = {"o", "dq", "dlatent", "dexpand"};

Results run(Context ctx, const Batch& batch, const LatentSchedule& schedule, Layout layout,
            const Group& sp, DType dtype = DType::kBF16) {
  Context host;
  const auto plan = SequencePlan::make(batch.cu_seqlens, layout, sp.size(), sp.rank());
  auto leaf = [&](const Tensor& values) { return Variable::leaf(upload(ctx, values.to(dtype))); };
  Tape tape;
  ctx.tape = &tape;
  const LatentAttentionInput input{leaf(plan.shard(host, batch.q_THD)),
                                   leaf(plan.shard(host, batch.latent_TL)), leaf(batch.expand_OC),
                                   1 / std::sqrt(double{kNope + kShared})};
  const Variable o = schedule.attend(ctx, input, plan);
  tape.backward(ctx, o, upload(ctx, plan.shard(host, batch.do_THV).to(dtype)));
  auto on_host = [&](const Tensor& tensor) { return tensor.contiguous().to(host.memory); };
  auto whole = [&](const Tensor& local) { return gather(host, sp, plan, on_host(local)); };
  Results results = {whole(o.value()), whole(input.q_THD.gradient()->sum()),
                     whole(input.latent_TL.gradient()->sum()),
                     on_host(input.expand_OC.gradient()->sum()).to(DType::kF64)};
  sp.all_reduce("test.expand", results.back()).wait();
  return results;
}

void expect_near(const Results& found, const Results& expected) {
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_LE(relative_rms(found[i], expected[i]), i == 0 ? kForwardBound : kGradientBound)
        << kNames[i];
}

bool same_bits(const Results& a, const Results& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (!bitwise_equal(a[i], b[i])) return false;
  return true;
}

std::shared_ptr<const LatentSchedule> schedule_of(const Strategy& strategy, const Group& sp,
                                                  const SoftmaxBlock& kernel) {
  if (strategy.latent != nullptr) return strategy.latent(sp, kernel);
  return make_expanded_latent(strategy.softmax(sp, kernel));
}

TEST(LatentOnGpus, EqualsOneGpuAndTheCpuAndRepeatsItsBits) {
  const GpuRuntime runtime(testing::mpi(), {.timeout_s = 60});
  Context gpu = runtime.context();
  gpu.memory->set_poison(true);
  gpu.deterministic = true;
  const auto kernel = make_softmax_kernel({DeviceKind::kCuda, gpu.deterministic});
  const testing::NaiveSoftmax naive;
  for (const std::vector<int64_t>& lengths :
       {std::vector<int64_t>{37, 1, 203, 1, 0, 58, 1}, {129}, {0, 1, 2}}) {
    const Batch batch(lengths);
    const Results expected = run(Context{}, batch, *make_gather_latent(Group::self(), naive),
                                 Layout::kContiguous, Group::self(), DType::kF64);
    for (const Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (const Strategy* strategy : strategies_for(
               {.family = MixerFamily::kLatent, .num_ranks = world().size(), .layout = layout})) {
        SCOPED_TRACE(fmt::format("{} {}, documents of {}", strategy->name, layout_name(layout),
                                 fmt::join(lengths, ",")));
        const auto schedule = schedule_of(*strategy, runtime.world(), *kernel);
        auto results = [&] { return run(gpu, batch, *schedule, layout, runtime.world()); };
        const Results found = results();
        EXPECT_EQ(found[0].dtype(), DType::kBF16);
        expect_near(found, expected);
        expect_near(found, run(gpu, batch, *schedule_of(*strategy, Group::self(), *kernel), layout,
                               Group::self()));
        EXPECT_TRUE(same_bits(found, results()));
      }
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
