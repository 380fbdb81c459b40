// longship bench: how fast attention, collectives and whole steps are here.
#include "launch/bench_cases.h"
#include "launch/verbs.h"
#include "runtime/cuda/device_info.h"

namespace longship {

int run_bench(const BenchArguments& arguments) {
  Job job;
  const bool enough_gpus = job.mpi.local_size() <= std::ssize(visible_gpus().names);
  const bool gpus_for_all =
      job.world.all_reduce_value("bench.gpus", int64_t{enough_gpus}, ReduceOp::kMin) != 0;
  if (arguments.device == "cuda" || (arguments.device == "auto" && gpus_for_all)) job.use_gpu();
  job.ctx.deterministic = arguments.deterministic;
  job.say("on " + job.device);
  const BenchTimer timer(job.ctx, job.world,
                         {.num_warmups = 2, .num_rounds = arguments.num_rounds});
  for (const auto* sizes : {&arguments.lengths, &arguments.message_bytes})
    for (int64_t size : *sizes)
      if (size <= 0)
        throw Error(ErrorCode::kConfig, {.what = "longship bench --lengths and --bytes",
                                         .expected = "sizes of at least 1",
                                         .found = std::to_string(size)});
  BenchReport report(job, arguments.json, arguments.command_line);
  for (const std::string& kind : arguments.kinds) {
    if (kind == "attention") {
      bench_attention(job, arguments, timer, report);
    } else if (kind == "collectives") {
      bench_collectives(job, arguments, timer, report);
    } else if (kind == "step") {
      bench_step(job, arguments, timer, report);
    } else {
      throw Error(ErrorCode::kConfig, {.what = "longship bench: unknown kind of cases",
                                       .expected = "attention, collectives or step",
                                       .found = kind});
    }
  }
  report.finish();
  return 0;
}

}  // namespace longship
