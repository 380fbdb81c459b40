// Shapes: S tokens of the sequence, T of this rank, H query heads, K key/value heads, D head size.
#include <cmath>

#include "attention/registry.h"
#include "attention/strategy.h"
#include "launch/bench_cases.h"
#include "launch/head_shape.h"
#include "parallel/muted_group.h"
#include "parallel/visible_pairs.h"
#include "runtime/random.h"

namespace longship {
namespace {

// Borders of documents of 1 to 2 * mean - 1 tokens, or of one document.
std::vector<int64_t> document_borders(int64_t length, int64_t mean_document) {
  std::vector<int64_t> borders{0};
  for (uint64_t i = 0; mean_document > 0 && borders.back() < length; ++i) {
    const double share = uniform(0, stream_of("bench.documents"), i);
    const auto size = 1 + static_cast<int64_t>(share * static_cast<double>(2 * mean_document - 2));
    borders.push_back(std::min(length, borders.back() + size));
  }
  if (borders.back() < length) borders.push_back(length);
  return borders;
}

// Normal numbers: a random block over and over, as the time does not depend on what stands where.
Tensor random_bf16(const Context& ctx, const Shape& shape, std::string_view name) {
  const Tensor all = ctx.empty(shape, DType::kBF16);
  const Tensor flat = all.reshape({-1});
  const int64_t block_size = std::min<int64_t>(all.numel(), 1 << 20);
  const auto host = std::make_shared<Memory>();
  const Tensor block = Tensor::empty(host, {block_size}, DType::kBF16);
  for (int64_t i = 0; i < block_size; ++i)
    block.data<bf16>()[i] =
        static_cast<bf16>(static_cast<float>(normal(0, stream_of(name), static_cast<uint64_t>(i))));
  const Tensor source = block.to(ctx.memory);
  for (int64_t begin = 0; begin < flat.numel(); begin += block_size) {
    const int64_t count = std::min(block_size, flat.numel() - begin);
    flat.slice(0, begin, count).copy_from(source.slice(0, 0, count));
  }
  return all;
}

class AttentionCase {
 public:
  AttentionCase(Job& job, const HeadShape& shape, const SequencePlan& plan, int64_t window)
      : job_(job),
        plan_(plan),
        options_{.scale = 1 / std::sqrt(double(shape.head_size)), .window = window} {
    const int64_t T = plan.num_local_tokens(), D = shape.head_size;
    q_THD_ = random_bf16(job.ctx, {T, shape.num_heads, D}, "bench.q");
    k_TKD_ = random_bf16(job.ctx, {T, shape.num_kv_heads, D}, "bench.k");
    v_TKD_ = random_bf16(job.ctx, {T, shape.num_kv_heads, D}, "bench.v");
    do_THD_ = random_bf16(job.ctx, {T, shape.num_heads, D}, "bench.do");
  }

  void run_forward(const SoftmaxSchedule& schedule) const {
    Context ctx = job_.ctx;
    schedule.attend(ctx, q_THD_, k_TKD_, v_TKD_, plan_, options_);
  }

  void run(const SoftmaxSchedule& schedule) const {
    Tape tape;
    Context ctx = job_.ctx;
    ctx.tape = &tape;
    auto wanted = [](const Tensor& value) {
      return Variable(value, std::make_shared<Gradient>(value.shape(), value.dtype()));
    };
    const Variable o_THD =
        schedule.attend(ctx, wanted(q_THD_), wanted(k_TKD_), wanted(v_TKD_), plan_, options_);
    tape.backward(ctx, o_THD, do_THD_);
  }

 private:
  Job& job_;
  const SequencePlan& plan_;
  AttentionOptions options_;
  Tensor q_THD_, k_TKD_, v_TKD_, do_THD_;
};

}  // namespace

void bench_attention(Job& job, const BenchArguments& arguments, const BenchTimer& timer,
                     BenchReport& report) {
  const HeadShape shape = parse_head_shape(arguments.heads);
  const int num_ranks = job.world.size();
  std::vector<std::string> names = arguments.strategies;
  if (names.empty())
    names = num_ranks == 1 ? std::vector<std::string>{"local"}
                           : std::vector<std::string>{"ulysses", "ring", "gather_kv"};
  const auto kernel = make_softmax_kernel(
      {.device = job.ctx.memory->device().kind, .deterministic = job.ctx.deterministic});
  for (const std::string& name : names) {
    const Strategy& strategy = find_strategy(name);
    const Layout layout = strategy.layouts.front();
    const std::string refusal =
        strategy.refusal({.num_ranks = num_ranks, .layout = layout, .window = arguments.window});
    if (!refusal.empty())
      throw Error(ErrorCode::kConfig, {.what = "longship bench --strategies", .found = refusal});
    const auto schedule = strategy.softmax(job.world, *kernel);
    const auto silent = strategy.softmax(muted(job.world), *kernel);
    for (int64_t length : arguments.lengths) {
      const auto plan = SequencePlan::make(document_borders(length, arguments.mean_document),
                                           layout, num_ranks, job.world.rank());
      const AttentionCase attention(job, shape, plan, arguments.window);
      const double forward_ms = timer.median_ms([&] { attention.run_forward(*schedule); });
      const auto run = [&] { attention.run(*schedule); };
      const double total_ms = timer.median_ms(run);
      // Warm by now, so that no rank waits for another one's preparations.
      BenchTimer::Comparison times;
      double waited_ms = 0;
      if (num_ranks > 1) {
        const double before_s = job.comm_wait_s();
        int num_runs = 0;
        auto counted = [&] {
          run();
          ++num_runs;
        };
        times = timer.compare(counted, [&] { attention.run(*silent); });
        waited_ms = 1e3 * (job.comm_wait_s() - before_s) / num_runs;
      }

      // Two products forward and five backward, each of 2 operations a score and feature.
      const double flops =
          14.0 * static_cast<double>(num_visible_pairs(plan, {.window = arguments.window})) *
          static_cast<double>(shape.num_heads * shape.head_size) / num_ranks;
      std::string mask = arguments.mean_document > 0
                             ? fmt::format("documents~{}", length_name(arguments.mean_document))
                             : "causal";
      if (arguments.window > 0) mask += fmt::format(" window={}", length_name(arguments.window));
      const double exposed_share =
          num_ranks > 1 ? std::max(0.0, times.difference_ms) / times.ms : 0;
      report.add({.name = fmt::format("attention {} {} {} S={} {}", device_count_name(job), mask,
                                      shape.name(), length_name(length), name),
                  .ms = total_ms,
                  .floor_ms = floor_ms(flops, report.peaks().bf16_flops),
                  .rate = 1e-9 * flops / total_ms,
                  .unit = "TFLOP/s a rank",
                  .note = num_ranks > 1
                              ? fmt::format("exposed communication {:.2f}%, waited for {:.2f}%",
                                            100 * exposed_share, 100 * waited_ms / total_ms)
                              : "",
                  .details = {{"forward_ms", forward_ms},
                              {"backward_ms", total_ms - forward_ms},
                              {"exposed_share", exposed_share},
                              {"waited_ms", waited_ms},
                              {"layout", layout_name(layout)},
                              {"documents", plan.num_documents()}}});
    }
  }
}

}  // namespace longship
