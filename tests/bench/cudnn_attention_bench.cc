// Speed of attention calls by cuDNN on a GPU, forward and backward: milliseconds, and TFLOP/s of
// the pairs that are seen. --only TEXT takes the cases whose names contain it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "attention/cuda/cudnn_attention.h"
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

// Pairs of a query and a key that it sees.
double num_pairs(const AttentionCall& call) {
  double pairs = 0;
  for (const CallEntry& entry : call.entries)
    for (int64_t i = 0; i < entry.q_length; ++i) {
      const int64_t diagonal = i + entry.k_length - entry.q_length;
      const int64_t last =
          std::min(entry.k_length - 1, diagonal + call.mask.right.value_or(entry.k_length));
      const int64_t first =
          call.mask.left ? std::max<int64_t>(0, diagonal - *call.mask.left + 1) : 0;
      pairs += static_cast<double>(std::max<int64_t>(0, last - first + 1));
    }
  return pairs;
}

void time_case(Context& ctx, const BenchCase& c) {
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
  const double forward_ms = best_ms(ctx, [&] { kernel.forward(ctx, c.call, forward); });
  const double backward_ms = best_ms(ctx, [&] { kernel.backward(ctx, c.call, backward); });
  std::printf("%-44s %9.3f %6.0f %9.3f %6.0f\n", c.name.c_str(), forward_ms,
              flop / forward_ms * 1e-9, backward_ms, 2.5 * flop / backward_ms * 1e-9);
  std::fflush(stdout);
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

std::vector<BenchCase> cases() {
  const CallMask causal = CallMask::causal(), full = CallMask::full();
  const CallMask window = CallMask::causal_window(1024);
  auto rectangle = [](int64_t q, int64_t k) { return std::vector<CallEntry>{{0, q, 0, k}}; };
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

}  // namespace
}  // namespace longship

int main(int argc, char** argv) {
  const bool has_filter = argc == 3 && std::strcmp(argv[1], "--only") == 0;
  if (argc != 1 && !has_filter) {
    std::fprintf(stderr, "usage: cudnn_attention_bench [--only TEXT]\n");
    return 2;
  }
  try {
    longship::Context ctx = longship::gpu_context(0);
    std::printf("%-44s %9s %6s %9s %6s\n", "32/8 heads of 128 unless said", "forward", "TF/s",
                "backward", "TF/s");
    for (const auto& c : longship::cases())
      if (!has_filter || c.name.find(argv[2]) != std::string::npos) longship::time_case(ctx, c);
  } catch (const longship::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
