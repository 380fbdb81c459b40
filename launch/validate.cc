#include "launch/validate.h"

#include <cmath>

#include "launch/layers.h"
#include "runtime/error.h"
#include "runtime/problems.h"

namespace longship {
namespace {

// Largest extents accepted; products of a few of them stay far inside 64 bits.
constexpr int64_t kLargestExtent = int64_t{1} << 40;

bool is_extent(int64_t value) {
  return value >= 1 && value <= kLargestExtent;
}

void require_extent(Problems& problems, const char* field, int64_t value) {
  problems.require(is_extent(value), "{} must be at least 1 (and at most 2^40), is {}", field,
                   value);
}

void require_share(Problems& problems, const char* field, double value, double low, double high) {
  problems.require(std::isfinite(value) && value >= low && value <= high,
                   "{} must lie between {} and {}, is {}", field, low, high, value);
}

void check_model(const config::Model& model, Problems& problems) {
  problems.require(model.vocab_size() >= 0 && model.vocab_size() <= kLargestExtent,
                   "model.vocab_size must be 0 (from the tokens) or positive, is {}",
                   model.vocab_size());
  require_extent(problems, "model.hidden_size", model.hidden_size());
  require_extent(problems, "model.intermediate_size", model.intermediate_size());
  require_share(problems, "model.norm_eps", model.norm_eps(), 0, 1);
  require_share(problems, "model.init_std", model.init_std(), 0, 10);
}

void resolve_ranks(config::Parallel& parallel, int num_ranks) {
  if (parallel.dp() == 0) parallel.set_dp(parallel.sp() == 0 ? 1 : num_ranks / parallel.sp());
  if (parallel.sp() == 0) parallel.set_sp(num_ranks / parallel.dp());
}

void check_parallel(const config::Run& run, const ConfiguredLayers& layers, int num_ranks,
                    Problems& problems) {
  const config::Parallel& parallel = run.parallel();
  const int sp = parallel.sp(), dp = parallel.dp();
  problems.require(sp >= 0, "parallel.sp must be 0 (automatic) or positive, is {}", sp);
  problems.require(dp >= 0, "parallel.dp must be 0 (automatic) or positive, is {}", dp);
  problems.require(std::isfinite(parallel.timeout_s()) && parallel.timeout_s() > 0,
                   "parallel.timeout_s must be positive, is {}", parallel.timeout_s());
  if (sp < 0 || dp < 0) return;
  const int64_t known = int64_t{std::max(sp, 1)} * std::max(dp, 1);
  const bool fits = sp > 0 && dp > 0 ? known == num_ranks : num_ranks % known == 0;
  problems.require(fits,
                   "parallel.dp = {} and parallel.sp = {} do not fit {} ranks: start {} ranks, or "
                   "leave one of them 0",
                   dp, sp, num_ranks, known);
  if (!fits) return;
  config::Parallel resolved = parallel;
  resolve_ranks(resolved, num_ranks);
  const int num_sp = resolved.sp(), num_dp = resolved.dp();
  problems.add(strategy_problems(layers, run, num_sp));
  const config::Train& train = run.train();
  problems.require(train.context() < 1 || train.context() >= num_sp,
                   "train.context = {} tokens cannot be split over {} ranks: lower parallel.sp",
                   train.context(), num_sp);
  if (is_extent(train.micro_batch()) && is_extent(train.global_batch())) {
    const int64_t samples = train.micro_batch() * num_dp;
    problems.require(train.global_batch() % samples == 0,
                     "train.global_batch = {} is not a multiple of micro_batch * dp = {} * {}: use "
                     "{}",
                     train.global_batch(), train.micro_batch(), num_dp,
                     (train.global_batch() + samples - 1) / samples * samples);
  }
}

void check_training(const config::Run& run, Problems& problems) {
  const config::Train& train = run.train();
  const config::Optimizer& optim = run.optim();
  require_extent(problems, "train.steps", train.steps());
  require_extent(problems, "train.context", train.context());
  require_extent(problems, "train.global_batch", train.global_batch());
  require_extent(problems, "train.micro_batch", train.micro_batch());
  require_extent(problems, "train.loss_chunk_tokens", train.loss_chunk_tokens());
  problems.require(
      train.recompute_layers() >= 0 && train.recompute_layers() <= run.model().num_layers(),
      "train.recompute_layers must lie between 0 (all) and model.num_layers = {}, is {}",
      run.model().num_layers(), train.recompute_layers());
  problems.require(
      train.recompute_layers() == 0 || train.recompute() != config::Train::NONE,
      "train.recompute_layers = {} has a meaning only with train.recompute: SELECTIVE or BLOCK",
      train.recompute_layers());
  problems.require(std::isfinite(optim.learning_rate()) && optim.learning_rate() > 0,
                   "optim.learning_rate must be positive, is {}", optim.learning_rate());
  problems.require(optim.beta1() >= 0 && optim.beta1() < 1, "optim.beta1 must lie in [0, 1), is {}",
                   optim.beta1());
  problems.require(optim.beta2() >= 0 && optim.beta2() < 1, "optim.beta2 must lie in [0, 1), is {}",
                   optim.beta2());
  problems.require(std::isfinite(optim.eps()) && optim.eps() > 0,
                   "optim.eps must be positive, is {}", optim.eps());
  require_share(problems, "optim.weight_decay", optim.weight_decay(), 0, 100);
  require_share(problems, "optim.min_ratio", optim.min_ratio(), 0, 1);
  problems.require(std::isfinite(optim.clip_norm()) && optim.clip_norm() >= 0,
                   "optim.clip_norm must be 0 (off) or positive, is {}", optim.clip_norm());
  problems.require(optim.warmup_steps() >= 0 && optim.warmup_steps() <= kLargestExtent,
                   "optim.warmup_steps must be 0 or more (and at most 2^40), is {}",
                   optim.warmup_steps());
  problems.require(optim.decay_steps() >= 0 && optim.decay_steps() <= kLargestExtent,
                   "optim.decay_steps must be 0 or more (and at most 2^40), is {}",
                   optim.decay_steps());
  problems.require(optim.decay_steps() == 0 || optim.schedule() == config::Optimizer::WSD,
                   "optim.decay_steps = {} has a meaning only with optim.schedule: WSD",
                   optim.decay_steps());
  problems.require(
      train.steps() < 1 || optim.decay_steps() > kLargestExtent ||
          optim.warmup_steps() <= train.steps() - optim.decay_steps(),
      "optim.warmup_steps = {} and optim.decay_steps = {} together exceed train.steps = {}",
      optim.warmup_steps(), optim.decay_steps(), train.steps());
}

}  // namespace

std::vector<std::string> find_problems(const config::Run& run, int num_ranks) {
  Problems problems;
  problems.require(!run.output_dir().empty(), "output_dir is required: the folder of the run");
  problems.require(!run.data().tokens().empty(),
                   "data.tokens is required: a token file made by `longship prepare`");
  problems.require(run.data().prefetch() >= 0 && run.data().prefetch() <= 1024,
                   "data.prefetch must lie between 0 and 1024, is {}", run.data().prefetch());
  check_model(run.model(), problems);
  std::vector<std::string> layer_problems;
  const ConfiguredLayers layers = read_layers(run, layer_problems);
  problems.add(layer_problems);
  check_training(run, problems);
  check_parallel(run, layers, num_ranks, problems);
  problems.require(run.checkpoint().every_steps() >= 0,
                   "checkpoint.every_steps must be 0 or more, is {}",
                   run.checkpoint().every_steps());
  problems.require(run.checkpoint().keep() >= 0, "checkpoint.keep must be 0 or more, is {}",
                   run.checkpoint().keep());
  problems.require(
      std::isfinite(run.telemetry().peak_tflops()) && run.telemetry().peak_tflops() >= 0,
      "telemetry.peak_tflops must be 0 (by the GPU's name) or positive, is {}",
      run.telemetry().peak_tflops());
  problems.require(run.telemetry().log_every() >= 1,
                   "telemetry.log_every must be at least 1, is {}", run.telemetry().log_every());
  return problems.take();
}

void validate(const config::Run& run, int num_ranks, const std::string& origin) {
  const std::vector<std::string> problems = find_problems(run, num_ranks);
  if (problems.empty()) return;
  std::string list;
  for (const std::string& problem : problems) list += "\n    - " + problem;
  throw Error(ErrorCode::kConfig,
              {.what = fmt::format("{} cannot run on {} rank{}: {} problem{}{}", origin, num_ranks,
                                   num_ranks == 1 ? "" : "s", problems.size(),
                                   problems.size() == 1 ? "" : "s", list),
               .next = "correct the fields above; launch/config.proto explains each"});
}

void resolve_automatic_values(config::Run& run, int num_ranks) {
  resolve_ranks(*run.mutable_parallel(), num_ranks);
  resolve_layers(run);
}

}  // namespace longship
