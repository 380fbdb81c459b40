// longship train: config -> mesh -> data -> model -> step loop -> checkpoints.
#include <optional>

#include "data/batch_loader.h"
#include "launch/agreement.h"
#include "launch/auto_strategy.h"
#include "launch/checkpointing.h"
#include "launch/config.h"
#include "launch/job.h"
#include "launch/layers.h"
#include "launch/optimizer_options.h"
#include "launch/run_folder.h"
#include "launch/run_header.h"
#include "launch/step_batches.h"
#include "launch/step_telemetry.h"
#include "launch/stop_signal.h"
#include "launch/train_step.h"
#include "launch/validate.h"
#include "launch/verbs.h"
#include "optim/schedule.h"
#include "runtime/host_copy.h"
#include "runtime/io/atomic_file.h"

namespace longship {
namespace {

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

// Writes checkpoints when they are due.
class Saver {
 public:
  // Both outlive this.
  Saver(const Job& job, const CheckpointSource& source) : job_(job), source_(source) {}

  // After a step: at the intervals asked for, at the end, and when the run is `stopping`. A full
  // disk must not cost the run while the next attempt may succeed.
  void save_if_due(const TrainingState& state, bool stopping) {
    const int64_t every = source_.run.checkpoint().every_steps();
    const bool due = every > 0 && state.step % every == 0;
    const bool final = stopping || state.step == source_.run.train().steps();
    if (!due && !final) return;
    try {
      save_checkpoint(source_, state);
      num_failures_ = 0;
    } catch (const Error& error) {
      if (final || ++num_failures_ == kMaxFailures) throw;
      job_.say(fmt::format("warning: step {} was not saved, training goes on: {}", state.step,
                           error.what()));
    }
  }

 private:
  static constexpr int kMaxFailures = 3;

  const Job& job_;
  const CheckpointSource& source_;
  int num_failures_ = 0;  // in a row
};

// Steps from `state` to the last one, or to a signal; returns the exit code.
int run_steps(Job& job, const CheckpointSource& source,
              const std::shared_ptr<const BatchBuilder>& batches, const StopSignal& stop,
              TrainingState state) {
  const config::Run& run = source.run;
  const Mesh& mesh = source.mesh;
  BatchLoader loader(batches,
                     {.first_sample = state.next_sample,
                      .samples_per_batch = run.train().micro_batch(),
                      .num_dp_ranks = mesh.dp.size(),
                      .dp_rank = mesh.dp.rank()},
                     run.data().prefetch());
  StepBatches step_batches(
      job.ctx, loader, run.train().global_batch() / (run.train().micro_batch() * mesh.dp.size()));
  const LearningRateSchedule schedule = make_schedule(run);
  const auto graphs = make_step_graphs(job.ctx, run, source.model, mesh.world,
                                       [&](const std::string& line) { job.say(line); });
  StepTelemetry telemetry(job, run, mesh, loader, state.step);
  Saver saver(job, source);

  while (state.step < run.train().steps()) {
    telemetry.begin_step();
    const std::vector<Batch> micro_batches = step_batches.take();
    const double rate = learning_rate(schedule, state.step);
    const auto meanwhile = [&] {
      telemetry.count_flops(source.model, micro_batches);
      if (state.step + 1 < run.train().steps()) step_batches.prepare();
    };
    const StepOutcome outcome = train_step(
        job.ctx, {source.model, source.exchange, source.optimizer, mesh, graphs.get()},
        micro_batches,
        {.learning_rate = rate, .clip_norm = run.optim().clip_norm(), .meanwhile = meanwhile});
    state.step += 1;
    state.next_sample += run.train().global_batch();
    state.tokens_consumed += outcome.num_tokens;
    telemetry.report(outcome, state, rate);

    const bool stopping =
        job.world.all_reduce_value("train.stop", int64_t{stop.requested()}, ReduceOp::kMax) != 0;
    saver.save_if_due(state, stopping);
    if (stopping && state.step < run.train().steps()) {
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
  return run_steps(job, checkpoint_source, batches, stop, state);
}

}  // namespace longship
