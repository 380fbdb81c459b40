#include "launch/step_graphs.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "launch/micro_batch.h"
#include "runtime/cuda/graph.h"
#include "runtime/gpu.h"
#include "runtime/long_lived.h"
#include "runtime/memory/arena_pool.h"
#include "runtime/memory/lent_blocks.h"
#include "runtime/memory/size_class_pool.h"
#include "runtime/ops/fill.h"

namespace longship {
namespace {

// Tokens times elements of parameters, up to which graphs are faster on an H200: with 135M they
// take 5% off a step of 4K tokens and 2% off one of 8K, but add 1% at 20K, where sums that keep
// their places cost more than gaps between launches.
constexpr int64_t kMostWork = 1'600'000'000'000;

// Pinned memory that is not there: a copy from the host cannot be part of a graph.
class NoUploads final : public BlockSource {
 public:
  Device device() const override { return {}; }
  std::string name() const override { return "pinned memory for a graph"; }
  void* allocate(int64_t bytes) override {
    throw Error(
        ErrorCode::kInternal,
        {.what = fmt::format("{} bytes come from the host in work recorded as a graph", bytes)});
  }
  void free(void*) noexcept override {}
  void fill(void*, uint8_t, int64_t) override {}
  void wait_for(std::span<const Event>) override {}
};

std::shared_ptr<const Gpu> without_uploads(const Gpu& gpu) {
  Gpu same = gpu;
  same.pinned =
      std::make_shared<Memory>(std::make_unique<SizeClassPool>(std::make_unique<NoUploads>()));
  return std::make_shared<const Gpu>(std::move(same));
}

Gradient& gradient_of(const Parameter& parameter) {
  return *parameter.variable.gradient();
}

void keep_places(const ParameterList& parameters, bool keep) {
  for (const Parameter& parameter : parameters.all()) gradient_of(parameter).keep_place(keep);
}

std::vector<Gradient*> gradients_that(const ParameterList& parameters, bool are_defined) {
  std::vector<Gradient*> found;
  for (const Parameter& parameter : parameters.all())
    if (gradient_of(parameter).defined() == are_defined) found.push_back(&gradient_of(parameter));
  return found;
}

}  // namespace

// The work on a micro-batch with all that it reads and writes outside of the memory of graphs.
class StepGraphs::Recorded {
 public:
  Recorded(Context& ctx, Model& model, const Batch& first)
      : ctx_(ctx),
        model_(model),
        batch_(first),
        seed_1_(ctx.empty({1}, DType::kF32)),
        loss_1_(ctx.empty({1}, DType::kF32)),
        long_lived_{.memory = ctx.memory, .used = {}} {
    for (Tensor* tensor : {&batch_.tokens_T, &batch_.targets_T, &batch_.loss_weights_T})
      *tensor = ctx.empty(tensor->shape(), tensor->dtype());
  }
  // The GPU may be at work on the last launch.
  ~Recorded() {
    if (!graph_) return;
    try {
      ctx_.gpu->compute->synchronize();
    } catch (const Error&) {
      // The GPU is lost, and does no more work.
    }
  }
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;

  void load(const Batch& batch, double seed) const {
    batch_.tokens_T.copy_from(batch.tokens_T);
    batch_.targets_T.copy_from(batch.targets_T);
    batch_.loss_weights_T.copy_from(batch.loss_weights_T);
    fill(ctx_, seed_1_, seed);
  }
  // Enqueues the work in `memory`, on what was loaded.
  void run(const std::shared_ptr<Memory>& memory) {
    enqueue(memory, ctx_.gpu);
    summed_ = gradients_that(model_.parameters, true);
  }
  // Makes a graph of what run() would enqueue; run() came immediately before.
  void record(const std::shared_ptr<Memory>& memory) {
    long_lived_.used.clear();
    const auto gpu = without_uploads(*ctx_.gpu);
    graph_.emplace(*gpu->compute, [&] { enqueue(memory, gpu); });
  }
  // The same work on what is loaded now.
  void launch() const {
    graph_->launch(*ctx_.gpu->compute);
    sums_are_there();
  }
  // The sums of gradients that run() leaves, and the graph too, are in their places.
  void sums_are_there() const {
    for (Gradient* gradient : summed_)
      if (!gradient->defined()) gradient->begin_update(ctx_);
  }

  const Tensor& loss_1() const { return loss_1_; }

 private:
  void enqueue(const std::shared_ptr<Memory>& memory, const std::shared_ptr<const Gpu>& gpu) {
    Context apart = ctx_;
    apart.memory = memory;
    apart.gpu = gpu;
    apart.long_lived = &long_lived_;
    loss_1_.copy_from(longship::forward_backward(apart, *model_.transformer, batch_, seed_1_));
  }

  Context& ctx_;
  Model& model_;
  Batch batch_;  // its own copies
  Tensor seed_1_, loss_1_;
  LongLived long_lived_;
  std::vector<Gradient*> summed_;  // that there are after the work
  std::optional<Graph> graph_;
};

StepGraphs::StepGraphs(Context& ctx, Model& model, StepGraphsOptions options)
    : ctx_(ctx), model_(model), options_(std::move(options)), graphs_(options_.kept) {}

StepGraphs::~StepGraphs() {
  keep_places(model_.parameters, false);
}

Tensor StepGraphs::forward_backward(const Batch& batch, double seed) {
  const auto run = [&] {
    return longship::forward_backward(ctx_, *model_.transformer, batch, seed);
  };
  if (gave_up_ || ctx_.check_finite || batch.plan.num_tokens() > options_.most_tokens) return run();
  keep_places(model_.parameters, true);
  std::vector<int64_t> key = places();
  if (key.empty()) return run();
  for (const Parameter& parameter : model_.parameters.all())
    key.push_back(gradient_of(parameter).defined());
  key.insert(key.end(), batch.plan.cu_seqlens().begin(), batch.plan.cu_seqlens().end());
  const auto [recorded, is_due] = graphs_.look_up(key);
  if (recorded == nullptr) return is_due ? run_apart(batch, seed) : run();
  recorded->load(batch, seed);
  recorded->launch();
  ++num_launches_;
  return recorded->loss_1();
}

std::vector<int64_t> StepGraphs::places() const {
  std::vector<int64_t> places;
  for (const Parameter& parameter : model_.parameters.all()) {
    const void* const place = gradient_of(parameter).place();
    if (place == nullptr) return {};
    places.push_back(static_cast<int64_t>(reinterpret_cast<intptr_t>(place)));
  }
  return places;
}

Tensor StepGraphs::run_apart(const Batch& batch, double seed) {
  if (memory_ == nullptr)
    memory_ = std::make_shared<Memory>(
        std::make_unique<ArenaPool>(std::make_unique<LentBlocks>(ctx_.memory)));
  const std::vector<Gradient*> missing = gradients_that(model_.parameters, false);
  const std::vector<int64_t> places_before = places();
  const int64_t num_segments = memory_->num_system_allocations();
  auto recorded = std::make_unique<Recorded>(ctx_, model_, batch);
  recorded->load(batch, seed);
  try {
    recorded->run(memory_);
  } catch (const Error& error) {
    const bool can_start_again = missing.size() == model_.parameters.all().size();
    if (error.code() != ErrorCode::kOutOfMemory || !can_start_again) throw;
    for (Gradient* gradient : missing) gradient->clear();
    give_up(error.what());
    return longship::forward_backward(ctx_, *model_.transformer, batch, seed);
  }
  const Tensor loss_1 = recorded->loss_1();
  // The same once more will find the same places, unless this run had to ask for some, or left
  // something there.
  auto is_settled = [&] {
    return memory_->num_system_allocations() == num_segments && memory_->live_bytes() == 0 &&
           places() == places_before;
  };
  if (!is_settled()) return loss_1;

  // Recording enqueues all of it again, from the same beginning, and nothing of that runs.
  for (Gradient* gradient : missing) gradient->clear();
  std::string refusal;
  try {
    recorded->record(memory_);
  } catch (const Error& error) {
    refusal = error.what();
  }
  recorded->sums_are_there();
  if (refusal.empty() && !is_settled()) refusal = "two runs of one micro-batch differ";
  if (!refusal.empty()) {
    ctx_.gpu->compute->synchronize();  // throws if more is wrong
    give_up(refusal);
    return loss_1;
  }
  graphs_.keep(std::move(recorded));
  ++num_recorded_;
  return loss_1;
}

void StepGraphs::give_up(const std::string& reason) {
  gave_up_ = true;
  graphs_.clear();
  memory_.reset();
  keep_places(model_.parameters, false);
  if (options_.say)
    options_.say(fmt::format(
        "warning: no CUDA graphs from here on, kernels are enqueued one by one: {}", reason));
}

int64_t most_graph_tokens(const Context& ctx, const config::Run& run, const Model& model,
                          const Group& world) {
  const bool is_alone = world.size() == 1 && run.parallel().zero() == config::Parallel::NONE;
  if (!run.train().cuda_graphs() || ctx.gpu == nullptr || !is_alone) return 0;
  return kMostWork / std::max<int64_t>(model.parameters.num_elements(), 1);
}

std::unique_ptr<StepGraphs> make_step_graphs(Context& ctx, const config::Run& run, Model& model,
                                             const Group& world,
                                             std::function<void(const std::string& line)> say) {
  const int64_t most_tokens = most_graph_tokens(ctx, run, model, world);
  if (most_tokens == 0) return nullptr;
  return std::make_unique<StepGraphs>(
      ctx, model, StepGraphsOptions{.most_tokens = most_tokens, .say = std::move(say)});
}

}  // namespace longship
