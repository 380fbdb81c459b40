// Every attention backend of this machine in one table: time per token forward and backward, its
// share of the larger of two floors (arithmetic at the FMA peak, memory at copy speed), the plain
// recurrence's time over the forward's, and for the linear family how even the time per token is
// from the shortest to the longest document: by the shortest of some rounds, and by their medians,
// which agree where nothing else runs on the machine. fp32, one rank.
//
//   attention_bench [--quick] [--rounds N] [--threads N] [--heads N] [--only NAME] [--json FILE]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "attention/softmax_cpu.h"
#include "runtime/ops/softmax_delta.h"
#include "tests/bench/copy_bandwidth.h"
#include "tests/bench/fma_peak.h"
#include "tests/bench/linear_case.h"
#include "tests/bench/plain_recurrence.h"

namespace longship {
namespace {

constexpr double kMostUneven = 1.10;

struct Options {
  bool quick = false;
  int num_rounds = 0;  // 0: what the mode takes
  int num_threads = 1;
  int64_t num_heads = 4;
  std::string only, json_path, command;
};

struct Row {
  std::string backend;
  const char* pass;
  int64_t T, H, K, V;
  double us_per_token;
  WorkAmount work;           // per token
  double recurrence_us = 0;  // per token; 0 where there is none
  double median_us = 0;      // per token, over the rounds; 0 where there are none
};

class Table {
 public:
  Table(const Options& options, const MachineLimits& limits) : options_(options), limits_(limits) {
    if (!options.json_path.empty()) json_.open(options.json_path);
    fmt::print("{}\n{} threads: {:.1f} GFLOP/s of FMAs, copies {:.1f} GB/s\n", options.command,
               options.num_threads, limits.gflops, limits.gbytes_per_s);
    fmt::print("{:<14}{:<9}{:>7}{:>4}{:>5}{:>5}{:>12}{:>10}{:>9}{:>10}{:>10}{:>7}{:>12}\n",
               "backend", "pass", "tokens", "H", "K", "V", "tokens/s", "us/token", "GFLOP/s",
               "floor us", "bound", "share", "recurrence");
  }

  void add(const Row& row) {
    const double floor_us = row.work.floor_us(limits_);
    const bool computes = row.work.arithmetic_us(limits_) >= row.work.memory_us(limits_);
    const double gflops = 1e-3 * row.work.flops / row.us_per_token;
    const std::string ratio =
        row.recurrence_us > 0 ? fmt::format("{:.1f}x", row.recurrence_us / row.us_per_token) : "-";
    fmt::print(
        "{:<14}{:<9}{:>7}{:>4}{:>5}{:>5}{:>12.0f}{:>10.2f}{:>9.1f}{:>10.2f}{:>10}{:>6.0f}%"
        "{:>12}\n",
        row.backend, row.pass, row.T, row.H, row.K, row.V, 1e6 / row.us_per_token, row.us_per_token,
        gflops, floor_us, computes ? "FMA" : "memory", 100 * floor_us / row.us_per_token, ratio);
    std::fflush(stdout);
    nlohmann::ordered_json line{{"case", fmt::format("{}/{}/{}", row.backend, row.pass, row.T)},
                                {"ms", 1e-3 * row.us_per_token * static_cast<double>(row.T)},
                                {"tokens_per_s", 1e6 / row.us_per_token},
                                {"us_per_token", row.us_per_token},
                                {"heads", row.H},
                                {"key_size", row.K},
                                {"value_size", row.V},
                                {"gflops", gflops},
                                {"arithmetic_floor_us", row.work.arithmetic_us(limits_)},
                                {"memory_floor_us", row.work.memory_us(limits_)},
                                {"share_of_floor", floor_us / row.us_per_token}};
    if (row.recurrence_us > 0) line["recurrence_us_per_token"] = row.recurrence_us;
    if (row.median_us > 0) line["median_us_per_token"] = row.median_us;
    write(std::move(line));
  }

  // `times`: by length.
  void add_evenness(const std::string& backend, const char* pass,
                    const std::vector<RoundTimes>& times) {
    auto slowest_to_fastest = [&](double RoundTimes::*time_s) {
      const auto [fastest, slowest] = std::minmax_element(
          times.begin(), times.end(),
          [&](const RoundTimes& a, const RoundTimes& b) { return a.*time_s < b.*time_s; });
      return *slowest.*time_s / (*fastest.*time_s);
    };
    const double ratio = slowest_to_fastest(&RoundTimes::shortest_s),
                 of_medians = slowest_to_fastest(&RoundTimes::median_s);
    fmt::print("{:<14}{:<9}slowest over fastest length {:.2f}, by medians {:.2f}{}\n", backend,
               pass, ratio, of_medians,
               ratio > kMostUneven ? fmt::format("  MORE THAN {:.2f}", kMostUneven) : "");
    write({{"case", fmt::format("{}/{}/evenness", backend, pass)},
           {"slowest_to_fastest", ratio},
           {"slowest_to_fastest_by_medians", of_medians},
           {"rounds", options_.num_rounds}});
  }

 private:
  void write(nlohmann::ordered_json line) {
    if (!json_.is_open()) return;
    line["threads"] = options_.num_threads;
    line["peak_gflops"] = limits_.gflops;
    line["copy_gbytes_per_s"] = limits_.gbytes_per_s;
    line["command"] = options_.command;
    line["longship"] = LONGSHIP_VERSION;
    line["compiler"] = __VERSION__;
    json_ << line.dump() << '\n';
  }

  const Options& options_;
  MachineLimits limits_;
  std::ofstream json_;
};

std::vector<int64_t> lengths(const Options& options) {
  return options.quick ? std::vector<int64_t>{1024, 4096, 16384}
                       : std::vector<int64_t>{1024, 4096, 16384, 65536};
}

void run_softmax(Context& ctx, const Options& options, Table& table, const char* name,
                 int64_t window, int64_t longest) {
  constexpr int64_t D = 128;
  const int64_t H = options.num_heads;
  const SoftmaxCpu kernel;
  for (int64_t T : lengths(options)) {
    if (T > longest) continue;
    const LinearCase like(ctx, {.name = name, .gate = GateKind::kNone}, T, H);
    const std::vector<Segment> documents = like.documents(T);
    const SoftmaxBlockInput input{.q_THD = like.input.q_TGK,
                                  .k_SKD = like.input.k_TGK,
                                  .v_SKV = like.input.v_THV,
                                  .kv_head = grouped_kv_heads(H, H),
                                  .scale = like.input.scale};
    const BlockMask mask = document_mask(documents, documents, {.window = window});
    const SoftmaxBlockOutput output = kernel.forward(ctx, input, mask);
    const SoftmaxBlockBackward gradients{
        .do_THV = like.do_THV,
        .lse_TH = output.lse_TH,
        .delta_or_o = softmax_delta(ctx, output.o_THV, like.do_THV),
        .dq_THD = ctx.zeros(input.q_THD.shape(), DType::kF32),
        .dk_SKD = ctx.zeros(input.k_SKD.shape(), DType::kF32),
        .dv_SKV = ctx.zeros(input.v_SKV.shape(), DType::kF32)};
    // Keys that a query sees on average.
    const double w = static_cast<double>(window > 0 ? std::min(window, T) : T),
                 t = static_cast<double>(T);
    const double visible = (w * (w + 1) / 2 + (t - w) * w) / t;
    const double rows = static_cast<double>(H * D), flops = 4 * rows * visible;
    const double budget_s = options.quick ? 0.2 : 1.0;
    table.add(
        {name,
         "forward",
         T,
         H,
         D,
         D,
         1e6 / t *
             shortest_run_s(ctx.num_threads, budget_s, [&] { kernel.forward(ctx, input, mask); }),
         {flops, 4 * 4 * rows}});
    table.add({name,
               "backward",
               T,
               H,
               D,
               D,
               1e6 / t *
                   shortest_run_s(ctx.num_threads, budget_s,
                                  [&] { kernel.backward(ctx, input, mask, gradients); }),
               {2.5 * flops, 4 * 8 * rows}});
  }
}

// Every length is measured on the same tokens, as many as the longest has: one document of 65536
// tokens or 64 of 1024. So all lengths stream from the same memory.
void run_linear(Context& ctx, const Options& options, Table& table, const LinearBackend& backend) {
  // The recurrence takes as long for every token, on one thread.
  const LinearCase few(ctx, backend, 256, options.num_heads);
  const double recurrence_us =
      1e6 / 256 * shortest_run_s(1, 0.05, [&] { plain_recurrence(ctx, few.input); });
  const std::vector<int64_t> document_lengths = lengths(options);
  const int64_t T = document_lengths.back();
  const LinearCase c(ctx, backend, T, options.num_heads);
  auto measure = [&](const char* pass, const WorkAmount& work, double reference_us, auto&& run) {
    std::vector<std::function<void()>> runs;
    for (int64_t length : document_lengths)
      runs.push_back([&run, segments = c.documents(length)] { run(segments); });
    const std::vector<RoundTimes> times =
        times_of_rounds(ctx.num_threads, options.num_rounds, runs);
    const double us_per_token = 1e6 / static_cast<double>(T);
    for (size_t i = 0; i < times.size(); ++i)
      table.add({backend.name, pass, document_lengths[i], options.num_heads, backend.K, backend.V,
                 times[i].shortest_s * us_per_token, work, reference_us,
                 times[i].median_s * us_per_token});
    table.add_evenness(backend.name, pass, times);
  };
  measure("forward", c.forward_work(), recurrence_us,
          [&](std::span<const Segment> segments) { c.run_forward(ctx, segments); });
  measure("backward", c.backward_work(), 0,
          [&](std::span<const Segment> segments) { c.run_backward(ctx, segments); });
}

void run(const Options& options) {
  Context ctx;
  ctx.num_threads = options.num_threads;
  const MachineLimits limits{.gflops = fma_peak<float>() * options.num_threads,
                             .gbytes_per_s = copy_bandwidth(ctx)};
  Table table(options, limits);
  auto wanted = [&](std::string_view name) { return options.only.empty() || name == options.only; };
  if (wanted("full")) run_softmax(ctx, options, table, "full", 0, options.quick ? 4096 : 16384);
  if (wanted("window_1024")) run_softmax(ctx, options, table, "window_1024", 1024, 65536);
  for (const LinearBackend& backend : kLinearBackends)
    if (wanted(backend.name)) run_linear(ctx, options, table, backend);
}

}  // namespace
}  // namespace longship

int main(int argc, char** argv) {
  longship::Options options;
  CLI::App app("Speed of every attention backend against the floors of this machine");
  app.add_flag("--quick", options.quick, "Up to 16384 tokens, few repetitions of softmax");
  app.add_option("--rounds", options.num_rounds,
                 "Rounds of the linear family, every length once in each (9, or 3 if quick)")
      ->check(CLI::PositiveNumber);
  app.add_option("--threads", options.num_threads, "Threads of the kernels")
      ->check(CLI::PositiveNumber);
  app.add_option("--heads", options.num_heads, "Value heads")->check(CLI::PositiveNumber);
  app.add_option("--only", options.only, "One backend of the table");
  app.add_option("--json", options.json_path, "File for one JSON object per case");
  CLI11_PARSE(app, argc, argv);
  for (int i = 0; i < argc; ++i) options.command += (i > 0 ? " " : "") + std::string(argv[i]);
  if (options.num_rounds == 0) options.num_rounds = options.quick ? 3 : 9;
  longship::run(options);
}
