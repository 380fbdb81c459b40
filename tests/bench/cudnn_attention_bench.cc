// Speed of attention calls by cuDNN on a GPU, forward and backward: time, and TFLOP/s of the pairs
// that are seen, against what the GPU is rated for in bf16.
#include <cmath>
#include <string>
#include <vector>

#include "attention/cuda/cudnn_attention.h"
#include "launch/bench_report.h"
#include "launch/head_shape.h"
#include "parallel/visible_pairs.h"
#include "tests/bench/gpu_program.h"
#include "tests/bench/gpu_timing.h"

namespace longship {
namespace {

constexpr int64_t kKi = 1024;

struct Heads {
  int64_t H = 32, K = 8, D = 128, V = 128;
};

struct BenchCase {
  std::string name;
  AttentionCall call;
  Heads heads = {};
  CudnnAttentionOptions options = {};
};

double num_pairs(const AttentionCall& call) {
  BlockMask mask;
  for (const CallEntry& entry : call.entries)
    mask.pieces.push_back({.q_length = entry.q_length,
                           .q_position = entry.k_length - entry.q_length,
                           .k_length = entry.k_length,
                           .causal = call.mask.right.has_value(),
                           .window = call.mask.left.value_or(0)});
  return static_cast<double>(num_visible_pairs(mask));
}

void time_case(Context ctx, const RateReport& report, const BenchCase& c) {
  int64_t T = 0, S = 0;
  for (const CallEntry& entry : c.call.entries) {
    T = std::max(T, entry.q_end());
    S = std::max(S, entry.k_end());
  }
  const Heads& heads = c.heads;
  auto room = [&](const Tensor& like) { return ctx.empty(like.shape(), like.dtype()); };
  const Tensor q = random(ctx, {T, heads.H, heads.D}, DType::kBF16);
  const Tensor k = random(ctx, {S, heads.K, heads.D}, DType::kBF16);
  const Tensor v = random(ctx, {S, heads.K, heads.V}, DType::kBF16);
  const Tensor d_o = random(ctx, {T, heads.H, heads.V}, DType::kBF16);
  const CallForward forward{.q_THD = q,
                            .k_SKD = k,
                            .v_SKV = v,
                            .scale = 1 / std::sqrt(static_cast<double>(heads.D)),
                            .o_THV = room(d_o),
                            .lse_TH = ctx.empty({T, heads.H}, DType::kF32)};
  const CallBackward backward{.q_THD = q,
                              .k_SKD = k,
                              .v_SKV = v,
                              .scale = forward.scale,
                              .o_THV = forward.o_THV,
                              .lse_TH = forward.lse_TH,
                              .do_THV = d_o,
                              .dq_THD = room(q),
                              .dk_SKD = room(k),
                              .dv_SKV = room(v)};
  const CudnnAttention kernel(c.options);
  const double flop = 2 * num_pairs(c.call) * static_cast<double>(heads.H * (heads.D + heads.V));
  report.add(c.name + " forward", best_ms(ctx, [&] { kernel.forward(ctx, c.call, forward); }),
             flop);
  report.add(c.name + " backward", best_ms(ctx, [&] { kernel.backward(ctx, c.call, backward); }),
             2.5 * flop);
}

// Documents of 512 to 15872 tokens.
AttentionCall packed(CallMask mask, int64_t num_tokens) {
  AttentionCall call{mask, {}};
  for (int64_t at = 0, i = 0; at < num_tokens; ++i) {
    const auto random_length =
        static_cast<int64_t>(uniform_index(1, 1, static_cast<uint64_t>(i), 15 * 1024));
    const int64_t length = std::min(num_tokens - at, 512 + random_length);
    call.entries.push_back({at, length, at, length});
    at += length;
  }
  return call;
}

std::vector<CallEntry> rectangle(int64_t num_queries, int64_t num_keys) {
  return {{0, num_queries, 0, num_keys}};
}

// Many kinds of calls; 32/8 heads of 128 unless the name says others.
std::vector<BenchCase> table() {
  const CallMask causal = CallMask::causal(), full = CallMask::full();
  const CallMask window = CallMask::causal_window(1024);
  const int64_t n = 16 * kKi;
  return {
      {"causal 8K", {causal, rectangle(8 * kKi, 8 * kKi)}},
      {"causal 16K", {causal, rectangle(n, n)}},
      {"causal 16K less 1", {causal, rectangle(n - 1, n - 1)}},
      {"causal 64K", {causal, rectangle(4 * n, 4 * n)}},
      {"causal 16K x 32K", {causal, rectangle(n, 2 * n)}},
      {"causal 16K x 64K", {causal, rectangle(n, 4 * n)}},
      {"full 16K x 16K", {full, rectangle(n, n)}},
      {"full 16K x 48K", {full, rectangle(n, 3 * n)}},
      {"window 1K of 64K", {window, rectangle(4 * n, 4 * n)}},
      {"window 1K of 16K with its halo", {window, rectangle(n, n + 1023)}},
      {"causal 64K in packed documents", packed(causal, 4 * n)},
      {"window 1K of 64K in packed documents", packed(window, 4 * n)},
      {"causal 16K, heads of 64", {causal, rectangle(n, n)}, {32, 8, 64, 64}},
      {"causal 16K, heads of 256", {causal, rectangle(n, n)}, {16, 2, 256, 256}},
      {"causal 16K, heads of 192 and 128", {causal, rectangle(n, n)}, {16, 16, 192, 128}},
      {"causal 16K, deterministic", {causal, rectangle(n, n)}, {}, {.deterministic = true}},
  };
}

struct Options {
  std::string only;
  std::vector<std::string> heads;
  std::vector<int64_t> lengths;
};

// What a group of heads takes by itself, for all lengths and groups asked for.
std::vector<BenchCase> causal_squares(Options options) {
  if (options.heads.empty()) options.heads = {"32/8"};
  if (options.lengths.empty()) options.lengths = {16 * kKi};
  std::vector<BenchCase> cases;
  for (int64_t length : options.lengths)
    for (const std::string& text : options.heads) {
      const HeadShape shape = parse_head_shape(text);
      cases.push_back({fmt::format("causal {} {}", length_name(length), shape.name()),
                       {CallMask::causal(), rectangle(length, length)},
                       {shape.num_heads, shape.num_kv_heads, shape.head_size, shape.head_size}});
    }
  return cases;
}

void run(const Context& ctx, const Options& options, bool json) {
  const bool asks_for_squares = !options.heads.empty() || !options.lengths.empty();
  const RateReport report = flops_report(ctx, json);
  for (const BenchCase& c : asks_for_squares ? causal_squares(options) : table())
    if (c.name.find(options.only) != std::string::npos) time_case(ctx, report, c);
}

}  // namespace
}  // namespace longship

int main(int argc, char** argv) {
  longship::Options options;
  CLI::App app("Speed of attention calls by cuDNN on a GPU");
  app.add_option("--only", options.only, "Cases whose names contain this");
  app.add_option("--heads", options.heads,
                 "Instead of the table, one causal document with these heads: 32/8,16/4x64")
      ->delimiter(',');
  app.add_option("--lengths", options.lengths, "Instead of the table, of these lengths: 16K,64K")
      ->delimiter(',')
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  return longship::run_gpu_program(app, argc, argv, [&](const longship::Context& ctx, bool json) {
    longship::run(ctx, options, json);
  });
}
