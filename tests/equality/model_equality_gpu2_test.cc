// Whole models trained on GPUs that share sequences, batches or both, against one GPU, with the CPU
// in fp32 as the measure of what bf16 costs.
// ranks: 2 4
#include <gtest/gtest.h>

#include "attention/strategy.h"
#include "parallel/cuda/gpu_runtime.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/train_case.h"

namespace longship {
namespace {

using testing::relative_rms;
using testing::train;
using testing::TrainOutcome;
using testing::world;

// How the layers of a model are shared: softmax attention over whole documents, within a window,
// and from latents.
struct Strategies {
  std::string full = "local", window = "local", latent = "local";
};

config::Run run_of(const Strategies& strategies, int num_dp, int num_ranks, Layout layout,
                   const std::string& options) {
  const std::string model = fmt::format(
      "hidden_size: 128 intermediate_size: 192 num_layers: 3 tied_embeddings: false init_std: 0.1 "
      "layers: 'full, window, latent' "
      "mixer {{ name: 'full' strategy: '{}' "
      "  attention {{ num_heads: 4 num_kv_heads: 2 head_size: 64 qk_norm: true qkv_bias: true }} "
      "}} "
      "mixer {{ name: 'window' backend: 'full' strategy: '{}' "
      "  attention {{ num_heads: 3 num_kv_heads: 1 head_size: 128 window: 50 }} }} "
      "mixer {{ name: 'latent' strategy: '{}' latent {{ num_heads: 2 kv_lora_rank: 96 }} }}",
      strategies.full, strategies.window, strategies.latent);
  const std::string parallel = fmt::format("sp: {} dp: {} layout: {}", num_ranks / num_dp, num_dp,
                                           layout == Layout::kZigzag ? "ZIGZAG" : "CONTIGUOUS");
  return testing::resolved_run(model, parallel, options, num_ranks);
}

TrainOutcome train_on_one(Context ctx, const std::string& options, int num_steps) {
  return train(std::move(ctx), run_of({}, 1, 1, Layout::kContiguous, options),
               Mesh::make(Group::self(), 1, 1), num_steps);
}

class ModelOnGpus : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    runtime_ = std::make_unique<GpuRuntime>(testing::mpi(), GpuRuntime::Options{.timeout_s = 60});
    runtime_->context().memory->set_poison(true);
  }
  static void TearDownTestSuite() { runtime_.reset(); }

  static Context gpu() { return runtime_->context(); }

  // Calls f(train), where train(options, num_steps) runs on all GPUs, for every way to lay dp over
  // them and every strategy that is served, with a trace for failures.
  template <class F>
  static void for_each_parallelism(F&& f) {
    for (const int num_dp : {1, 2}) {
      const int num_sp = world().size() / num_dp;
      const Mesh mesh = Mesh::make(runtime_->world(), num_dp, num_sp);
      for (const Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
        if (num_sp == 1 && layout == Layout::kZigzag) continue;
        for (const Strategy* strategy : strategies_for({.num_ranks = num_sp, .layout = layout})) {
          if (num_sp == 1 && strategy->name != "local") continue;
          const Strategies strategies = num_sp == 1
                                            ? Strategies{}
                                            : Strategies{.full = std::string(strategy->name),
                                                         .window = "halo",
                                                         .latent = "gather_latent"};
          SCOPED_TRACE(fmt::format("dp {} x sp {}, {} {}", num_dp, num_sp, strategy->name,
                                   layout_name(layout)));
          f([&](const std::string& options, int num_steps) {
            return train(gpu(), run_of(strategies, num_dp, world().size(), layout, options), mesh,
                         num_steps);
          });
        }
      }
    }
  }

 private:
  static inline std::unique_ptr<GpuRuntime> runtime_;
};

std::string bytes_of(const std::vector<Tensor>& tensors) {
  std::string bytes;
  for (const Tensor& tensor : tensors)
    bytes.append(reinterpret_cast<const char*>(tensor.raw()),
                 static_cast<size_t>(tensor.num_bytes()));
  return bytes;
}

TEST_F(ModelOnGpus, LossesAndEveryGradientEqualOneGpu) {
  constexpr int kSteps = 3;
  Context cpu;
  cpu.num_threads = 4;
  const TrainOutcome exact = train_on_one(cpu, "precision: FP32", 1);
  const TrainOutcome one = train_on_one(gpu(), "precision: BF16", kSteps);
  for_each_parallelism([&](auto&& train_on_all) {
    const TrainOutcome found = train_on_all("precision: BF16", kSteps);
    for (size_t step = 0; step < kSteps; ++step) {
      EXPECT_NEAR(found.losses[step], one.losses[step], 3e-3 * one.losses[step]) << step;
      EXPECT_NEAR(found.norms[step], one.norms[step], 2e-2 * one.norms[step]) << step;
    }
    ASSERT_EQ(found.first_gradients.size(), exact.first_gradients.size());
    for (size_t i = 0; i < exact.first_gradients.size(); ++i) {
      const Tensor& wanted = exact.first_gradients[i];
      // Both round to bf16 in as many places, some of them other ones.
      const double cost = relative_rms(one.first_gradients[i], wanted);
      EXPECT_LE(cost, 0.06) << "parameter " << i;
      EXPECT_LE(relative_rms(found.first_gradients[i], wanted), 1.5 * cost + 5e-3)
          << "parameter " << i;
    }
    // Every rank has made the same update.
    const std::string weights = bytes_of(found.weights);
    for (const std::string& other : world().all_gather_bytes("test.weights", weights))
      EXPECT_TRUE(other == weights);
  });
}

TEST_F(ModelOnGpus, RepeatTheirBitsWhenDeterministicAndUnderEveryRecomputation) {
  constexpr int kSteps = 2;
  const std::string options = "precision: BF16 deterministic: true ";
  for_each_parallelism([&](auto&& train_on_all) {
    const TrainOutcome kept = train_on_all(options, kSteps);
    for (const char* level : {"NONE", "SELECTIVE", "BLOCK", "BLOCK recompute_layers: 1"}) {
      SCOPED_TRACE(level);
      testing::expect_same_bits(train_on_all(options + "recompute: " + level, kSteps), kept);
    }
  });
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
