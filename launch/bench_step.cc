#include <filesystem>

#include "launch/bench_cases.h"
#include "launch/config.h"
#include "launch/layers.h"
#include "launch/model.h"
#include "launch/optimizer_options.h"
#include "launch/step_flops.h"
#include "launch/train_step.h"
#include "launch/validate.h"
#include "parallel/mesh.h"
#include "runtime/gpu.h"
#include "runtime/random.h"

namespace longship {
namespace {

// One sample of random tokens, a document of `length` tokens, as the ranks of `sp` share it.
Batch random_batch(const config::Run& run, int64_t length, const Group& sp) {
  const auto host = std::make_shared<Memory>();
  Batch batch;
  batch.plan = SequencePlan::make({0, length}, layout_of(run), sp.size(), sp.rank());
  const int64_t T = batch.plan.num_local_tokens();
  batch.tokens_T = Tensor::empty(host, {T}, DType::kI32);
  batch.targets_T = Tensor::empty(host, {T}, DType::kI32);
  batch.loss_weights_T = Tensor::empty(host, {T}, DType::kF32);
  auto token = [&](int64_t place) {
    const double share =
        uniform(run.train().seed(), stream_of("bench.tokens"), static_cast<uint64_t>(place));
    const auto vocab_size = static_cast<double>(run.model().vocab_size());
    return std::min(static_cast<int32_t>(share * vocab_size),
                    static_cast<int32_t>(run.model().vocab_size() - 1));
  };
  for (const Segment& segment : batch.plan.local_segments())
    for (int64_t i = 0; i < segment.length; ++i) {
      const int64_t row = segment.slot + i;
      batch.tokens_T.data<int32_t>()[row] = token(segment.global_begin + i);
      batch.targets_T.data<int32_t>()[row] = token(segment.global_begin + i + 1);
      batch.loss_weights_T.data<float>()[row] = 1;
    }
  batch.num_loss_tokens = length;
  return batch;
}

// As train_step() wants it: where the model is.
void upload_batch(const Context& ctx, Batch& batch) {
  for (Tensor* tensor : {&batch.tokens_T, &batch.targets_T, &batch.loss_weights_T})
    *tensor = upload(ctx, *tensor);
}

config::Run read_config(const Job& job, const BenchArguments& arguments) {
  if (arguments.config.empty())
    throw Error(ErrorCode::kConfig, {.what = "longship bench step without --config",
                                     .next = "name a run configuration, such as one of examples/"});
  config::Run run = load_config(arguments.config, arguments.overrides);
  // Nothing is read or written there.
  if (run.output_dir().empty()) run.set_output_dir("none");
  if (run.data().tokens().empty()) run.mutable_data()->set_tokens("random");
  validate(run, job.world.size(), arguments.config);
  resolve_automatic_values(run, job.world.size());
  if (run.model().vocab_size() == 0)
    throw Error(ErrorCode::kConfig,
                {.what = arguments.config + ": model.vocab_size is 0, taken from data.tokens",
                 .expected = "a number, as `longship bench` reads no tokens",
                 .next = "add --set model.vocab_size=50304, for example"});
  return run;
}

}  // namespace

void bench_step(Job& job, const BenchArguments& arguments, const BenchTimer& timer,
                BenchReport& report) {
  const config::Run run = read_config(job, arguments);
  job.ctx.deterministic |= run.train().deterministic();
  const Mesh mesh = Mesh::make(job.world, run.parallel().dp(), run.parallel().sp());
  Model model = make_model(job.ctx, run, mesh.sp);
  const auto exchange = make_parameter_exchange(job.ctx, run, model, mesh.world);
  AdamW optimizer(job.ctx, model.parameters, optimizer_options(run.optim()));
  const auto graphs = make_step_graphs(job.ctx, run, model, mesh.world,
                                       [&](const std::string& line) { job.say(line); });
  const int64_t length = run.train().context();
  std::vector<Batch> batches;
  for (int64_t i = 0; i < run.train().global_batch() / mesh.dp.size(); ++i)
    upload_batch(job.ctx, batches.emplace_back(random_batch(run, length, mesh.sp)));

  job.ctx.memory->reset_peak();
  StepOutcome outcome;
  std::vector<double> step_waits_s;  // for communication
  const double ms = timer.median_ms([&] {
    const double before_s = job.comm_wait_s();
    outcome = train_step(job.ctx, {model, *exchange, optimizer, mesh, graphs.get()}, batches,
                         {.learning_rate = 1e-5, .clip_norm = run.optim().clip_norm()});
    step_waits_s.push_back(job.comm_wait_s() - before_s);
  });
  const double wait_share = 1e3 * median(std::move(step_waits_s)) / ms;
  const int64_t num_launches = graphs != nullptr ? graphs->num_launches() : 0;
  const double flops = step_flops(run, model, batches) * mesh.dp.size();
  report.add({.name = fmt::format("step {} {} S={}",
                                  std::filesystem::path(arguments.config).stem().string(),
                                  device_count_name(job), length_name(length)),
              .ms = ms,
              .floor_ms = floor_ms(flops / job.world.size(), report.peaks().bf16_flops),
              .rate = 1e3 * static_cast<double>(outcome.num_tokens) / ms,
              .unit = "tokens/s",
              .note = fmt::format("{:.1f} TFLOP/s a rank, peak memory {:.1f} GiB, comm {:.1f}%{}",
                                  1e-9 * flops / ms / job.world.size(),
                                  static_cast<double>(job.ctx.memory->peak_bytes()) / (1 << 30),
                                  100 * wait_share, num_launches > 0 ? ", CUDA graphs" : ""),
              .details = {{"tokens", outcome.num_tokens},
                          {"model_flops", flops},
                          {"peak_memory_bytes", job.ctx.memory->peak_bytes()},
                          {"comm_wait_share", wait_share},
                          {"graph_launches", num_launches},
                          {"loss", outcome.loss}}});
}

}  // namespace longship
