// longship train: config -> mesh -> data -> model -> step loop -> checkpoints.
#include <chrono>
#include <optional>

#include "data/batch_loader.h"
#include "launch/agreement.h"
#include "launch/auto_strategy.h"
#include "launch/checkpointing.h"
#include "launch/config.h"
#include "launch/device_peaks.h"
#include "launch/job.h"
#include "launch/layers.h"
#include "launch/optimizer_options.h"
#include "launch/run_folder.h"
#include "launch/run_header.h"
#include "launch/step_batches.h"
#include "launch/step_flops.h"
#include "launch/stop_signal.h"
#include "launch/train_step.h"
#include "launch/validate.h"
#include "launch/verbs.h"
#include "optim/schedule.h"
#include "runtime/host_copy.h"
#include "runtime/io/atomic_file.h"
#include "runtime/telemetry/metrics_jsonl.h"
#include "runtime/telemetry/progress_line.h"
#include "runtime/telemetry/tensorboard.h"

namespace longship {
namespace {

using Clock = std::chrono::steady_clock;

// Checkpoints in a row that may fail before the run gives up.
constexpr int kMaxFailedSaves = 3;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Rank 0 reads the file, so that all ranks run the same configuration.
config::Run read_config(const Job& job, const TrainArguments& arguments) {
  config::Run run;
  run_together(job.world, "train.config", [&] {
    if (job.is_first_rank()) run = load_config(arguments.config, arguments.overrides);
  });
  run.ParseFromString(job.world.broadcast_bytes("train.config", run.SerializeAsString(), 0));
  return run;
}

std::shared_ptr<const TokenFile> open_tokens(const Job& job, const config::Run& run) {
  std::shared_ptr<const TokenFile> tokens;
  run_together(job.world, "train.tokens", [&] { tokens = TokenFile::open(run.data().tokens()); });
  return tokens;
}

void set_vocabulary(config::Run& run, const TokenFile& tokens) {
  config::Model& model = *run.mutable_model();
  if (model.vocab_size() == 0) model.set_vocab_size(tokens.vocab_size());
  if (model.vocab_size() < tokens.vocab_size())
    throw Error(ErrorCode::kConfig,
                {.what = "model.vocab_size is too small for data.tokens",
                 .expected = fmt::format("at least {} ({})", tokens.vocab_size(),
                                         tokens.tokenizer_description()),
                 .found = std::to_string(model.vocab_size()),
                 .next = "set model.vocab_size: 0 to take it from the tokens"});
}

std::shared_ptr<const BatchBuilder> make_batch_builder(const Job& job, const config::Run& run,
                                                       std::shared_ptr<const TokenFile> tokens,
                                                       const Group& sp) {
  const PackingOptions options{.context = run.train().context(),
                               .mode = run.data().packing() == config::Data::BEST_FIT
                                           ? PackingMode::kBestFit
                                           : PackingMode::kContinuous,
                               .seed = run.train().seed()};
  auto packing = std::make_shared<const Packing>(tokens->document_lengths(), options);
  const BatchSharding sharding{.layout = layout_of(run), .num_ranks = sp.size(), .rank = sp.rank()};
  return std::make_shared<const BatchBuilder>(std::move(tokens), std::move(packing), sharding,
                                              run.model().vocab_size(),
                                              host_context(job.ctx).memory);
}

LearningRateSchedule make_schedule(const config::Run& run) {
  const config::Optimizer& optim = run.optim();
  using Kind = LearningRateSchedule::Kind;
  const Kind kind = optim.schedule() == config::Optimizer::COSINE ? Kind::kCosine
                    : optim.schedule() == config::Optimizer::WSD  ? Kind::kWarmupStableDecay
                                                                  : Kind::kConstant;
  return {.kind = kind,
          .peak = optim.learning_rate(),
          .total_steps = run.train().steps(),
          .warmup_steps = optim.warmup_steps(),
          .decay_steps = optim.decay_steps(),
          .decay = LearningRateSchedule::Decay::kOneMinusSqrt,
          .min_ratio = optim.min_ratio()};
}

// FLOP/s that the device of a rank reaches at best, if that is known.
std::optional<double> peak_flops(const Job& job, const config::Run& run) {
  if (run.telemetry().peak_tflops() > 0) return 1e12 * run.telemetry().peak_tflops();
  const double peak = device_peaks(job.ctx).bf16_flops;
  const bool is_known = peak > 0 && run.train().precision() == config::Train::BF16;
  return is_known ? std::optional(peak) : std::nullopt;
}

// What rank 0 writes about each step.
class Telemetry {
 public:
  Telemetry(const Job& job, const config::Run& run, int64_t resumed_step) : job_(job), run_(run) {
    if (!job.is_first_rank()) return;
    const RunFolder folder{run.output_dir()};
    metrics_.emplace(folder.metrics(), resumed_step);
    if (run.telemetry().tensorboard()) tensorboard_.emplace(folder.tensorboard(), resumed_step);
  }

  void report(const StepMetrics& metrics) {
    if (metrics_) metrics_->append(metrics);
    if (tensorboard_) tensorboard_->append(metrics);
    if (metrics.step % run_.telemetry().log_every() == 0 || metrics.step == metrics.total_steps)
      job_.say(progress_line(metrics));
  }

 private:
  const Job& job_;
  const config::Run& run_;
  std::optional<MetricsJsonl> metrics_;
  std::optional<TensorBoard> tensorboard_;
};

}  // namespace

int run_train(const TrainArguments& arguments) {
  const StopSignal stop;
  Job job;
  config::Run run = read_config(job, arguments);
  validate(run, job.world.size(), arguments.config);
  resolve_automatic_values(run, job.world.size());
  job.mpi.set_timeout(run.parallel().timeout_s());
  job.choose_device(run);

  const Mesh mesh = Mesh::make(job.world, run.parallel().dp(), run.parallel().sp());
  for (const std::string& line : choose_strategies(job.ctx, mesh, run)) job.say(line);
  const std::shared_ptr<const TokenFile> tokens = open_tokens(job, run);
  set_vocabulary(run, *tokens);
  const auto batches = make_batch_builder(job, run, tokens, mesh.sp);

  std::optional<RunLock> lock;
  run_together(job.world, "train.lock", [&] {
    if (job.is_first_rank()) lock.emplace(RunFolder{run.output_dir()});
  });

  Model model = make_model(job.ctx, run, mesh.sp);
  const auto exchange = make_parameter_exchange(job.ctx, run, model, mesh.world);
  AdamW optimizer(job.ctx, model.parameters, optimizer_options(run.optim()));
  const CheckpointSource checkpoint_source{run, mesh, model, *exchange, optimizer, *tokens};
  const Warn warn = [&](const std::string& message) { job.say(message); };

  TrainingState state;
  if (const auto resumed = resume_from_checkpoint(checkpoint_source, warn)) {
    state = *resumed;
    job.say(fmt::format("resuming after step {}", state.step));
  } else if (!run.train().init_from().empty()) {
    start_from_weights(run.train().init_from(), checkpoint_source, warn);
  }
  run_together(job.world, "train.resolved_config", [&] {
    if (job.is_first_rank())
      write_file_atomically(RunFolder{run.output_dir()}.resolved_config(), config_text(run));
  });
  job.say(run_header(run, job, mesh, model, batches->packing(), *tokens));

  const int64_t num_micro_batches =
      run.train().global_batch() / (run.train().micro_batch() * mesh.dp.size());
  BatchLoader loader(batches,
                     {.first_sample = state.next_sample,
                      .samples_per_batch = run.train().micro_batch(),
                      .num_dp_ranks = mesh.dp.size(),
                      .dp_rank = mesh.dp.rank()},
                     run.data().prefetch());
  StepBatches step_batches(job.ctx, loader, num_micro_batches);
  const LearningRateSchedule schedule = make_schedule(run);
  const std::optional<double> peak = peak_flops(job, run);
  Telemetry telemetry(job, run, state.step);
  const int64_t first_step = state.step;
  int num_failed_saves = 0;
  const Clock::time_point loop_begin = Clock::now();

  while (state.step < run.train().steps()) {
    const Clock::time_point begin = Clock::now();
    const double comm_wait_before = job.world.stats().wait_s, data_wait_before = loader.wait_s();
    job.ctx.memory->reset_peak();

    const std::vector<Batch> micro_batches = step_batches.take();
    const double rate = learning_rate(schedule, state.step);
    double flops = 0;  // of this dp rank's batches
    const auto meanwhile = [&] {
      if (peak) flops = step_flops(run, model, micro_batches);
      if (state.step + 1 < run.train().steps()) step_batches.prepare();
    };
    const StepOutcome outcome = train_step(
        job.ctx, {model, *exchange, optimizer, mesh}, micro_batches,
        {.learning_rate = rate, .clip_norm = run.optim().clip_norm(), .meanwhile = meanwhile});
    state.step += 1;
    state.next_sample += run.train().global_batch();
    state.tokens_consumed += outcome.num_tokens;

    const double step_s = seconds_since(begin);
    const double mean_step_s =
        seconds_since(loop_begin) / static_cast<double>(state.step - first_step);
    std::optional<double> flops_per_s, mfu;
    if (peak) {
      flops_per_s = flops / mesh.sp.size() / step_s;
      mfu = *flops_per_s / *peak;
    }
    telemetry.report({.step = state.step,
                      .total_steps = run.train().steps(),
                      .loss = outcome.loss,
                      .grad_norm = outcome.grad_norm,
                      .learning_rate = rate,
                      .tokens = outcome.num_tokens,
                      .tokens_consumed = state.tokens_consumed,
                      .step_s = step_s,
                      .tokens_per_s = static_cast<double>(outcome.num_tokens) / step_s,
                      .live_memory_bytes = job.ctx.memory->live_bytes(),
                      .peak_memory_bytes = job.ctx.memory->peak_bytes(),
                      .reserved_memory_bytes = job.ctx.memory->reserved_bytes(),
                      .system_allocations = job.ctx.memory->num_system_allocations(),
                      .flops_per_s = flops_per_s,
                      .mfu = mfu,
                      .comm_wait_share = (job.world.stats().wait_s - comm_wait_before) / step_s,
                      .data_wait_share = (loader.wait_s() - data_wait_before) / step_s,
                      .eta_s = mean_step_s * static_cast<double>(run.train().steps() - state.step),
                      .validation_loss = std::nullopt});

    const bool stopping =
        job.world.all_reduce_value("train.stop", int64_t{stop.requested()}, ReduceOp::kMax) != 0;
    const int64_t every = run.checkpoint().every_steps();
    const bool due = every > 0 && state.step % every == 0;
    const bool last = state.step == run.train().steps();
    if (due || last || stopping) {
      try {
        save_checkpoint(checkpoint_source, state);
        num_failed_saves = 0;
      } catch (const Error& error) {
        // A full disk must not cost the run while the next attempt may succeed.
        if (last || stopping || ++num_failed_saves == kMaxFailedSaves) throw;
        job.say(fmt::format("warning: step {} was not saved, training goes on: {}", state.step,
                            error.what()));
      }
    }
    if (stopping && !last) {
      job.say(
          fmt::format("stopped by a signal after step {}; the state is saved, start again with "
                      "the same command",
                      state.step));
      return static_cast<int>(ErrorCode::kPreempted);
    }
  }
  job.say(fmt::format("done: {} steps, {} tokens; checkpoints in {}", state.step,
                      state.tokens_consumed, RunFolder{run.output_dir()}.checkpoints()));
  return 0;
}

}  // namespace longship
