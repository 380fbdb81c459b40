// Softmax attention on one core: time, GFLOP/s and the share of the core's FMA peak, measured by a
// loop of independent FMAs. FLOPs are counted as usual: 2 (D + V) per visible pair of query and key
// and head in the forward, 2.5 times that in the backward.
#include <benchmark/benchmark.h>

#include <cmath>

#include "attention/softmax_cpu.h"
#include "runtime/ops/softmax_delta.h"
#include "runtime/random.h"
#include "tests/bench/fma_peak.h"

namespace longship {
namespace {

struct Case {
  Context ctx;
  SoftmaxBlockInput input;
  BlockMask mask;
  double num_pairs = 0;

  void report(benchmark::State& state, double peak, double factor) const {
    const double flops = factor * 4.0 * num_pairs * static_cast<double>(input.q_THD.dim(1)) *
                         static_cast<double>(input.q_THD.dim(2)) *
                         static_cast<double>(state.iterations());
    state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsRate);
    state.counters["share_of_peak"] =
        benchmark::Counter(flops * 1e-9 / peak, benchmark::Counter::kIsRate);
  }
};

// Arguments: tokens, query heads, key/value heads, head size, tokens per document.
template <class T>
Case make_case(const benchmark::State& state) {
  const int64_t tokens = state.range(0), heads = state.range(1), kv_heads = state.range(2),
                head_size = state.range(3), document = state.range(4);
  Case made;
  auto random = [&](int64_t num_heads, uint64_t stream) {
    Tensor x = made.ctx.empty({tokens, num_heads, head_size}, DTypeOf<T>::value);
    for (int64_t i = 0; i < x.numel(); ++i)
      x.data<T>()[i] =
          static_cast<T>(static_cast<Accumulator<T>>(normal(1, stream, static_cast<uint64_t>(i))));
    return x;
  };
  made.input = {.q_THD = random(heads, 1),
                .k_SKD = random(kv_heads, 2),
                .v_SKV = random(kv_heads, 3),
                .kv_head = grouped_kv_heads(heads, kv_heads),
                .scale = 1 / std::sqrt(static_cast<double>(head_size))};
  std::vector<Segment> segments;
  for (int64_t begin = 0; begin < tokens; begin += document) {
    const int64_t length = std::min(document, tokens - begin);
    segments.push_back({.document = begin / document, .length = length, .slot = begin});
    made.num_pairs += 0.5 * static_cast<double>(length) * static_cast<double>(length + 1);
  }
  made.mask = document_mask(segments, segments, {});
  return made;
}

template <class T>
void forward(benchmark::State& state) {
  Case c = make_case<T>(state);
  const double peak = fma_peak<Accumulator<T>>();
  const SoftmaxCpu kernel;
  for (auto _ : state) {
    SoftmaxBlockOutput output = kernel.forward(c.ctx, c.input, c.mask);
    benchmark::DoNotOptimize(output.o_THV.raw());
  }
  c.report(state, peak, 1.0);
}

template <class T>
void backward(benchmark::State& state) {
  Case c = make_case<T>(state);
  const double peak = fma_peak<Accumulator<T>>();
  const SoftmaxCpu kernel;
  const SoftmaxBlockOutput output = kernel.forward(c.ctx, c.input, c.mask);
  const Tensor& do_THV = c.input.q_THD;
  const DType sums = DTypeOf<Accumulator<T>>::value;
  const SoftmaxBlockBackward gradients{.do_THV = do_THV,
                                       .lse_TH = output.lse_TH,
                                       .delta_or_o = softmax_delta(c.ctx, output.o_THV, do_THV),
                                       .dq_THD = c.ctx.zeros(c.input.q_THD.shape(), sums),
                                       .dk_SKD = c.ctx.zeros(c.input.k_SKD.shape(), sums),
                                       .dv_SKV = c.ctx.zeros(c.input.v_SKV.shape(), sums)};
  for (auto _ : state) kernel.backward(c.ctx, c.input, c.mask, gradients);
  c.report(state, peak, 2.5);
}

void cases(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"tokens", "heads", "kv", "size", "document"})
      ->Args({4096, 8, 2, 64, 4096})
      ->Args({4096, 8, 2, 128, 4096})
      ->Args({4096, 8, 8, 64, 512})
      ->Args({4096, 8, 2, 64, 16})
      ->Unit(benchmark::kMillisecond);
}

BENCHMARK_TEMPLATE(forward, float)->Apply(cases);
BENCHMARK_TEMPLATE(backward, float)->Apply(cases);
BENCHMARK_TEMPLATE(forward, bf16)->Apply(cases);
BENCHMARK_TEMPLATE(backward, bf16)->Apply(cases);
BENCHMARK_TEMPLATE(forward, double)->Args({1024, 8, 2, 64, 1024})->Unit(benchmark::kMillisecond);
BENCHMARK_TEMPLATE(backward, double)->Args({1024, 8, 2, 64, 1024})->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace longship

BENCHMARK_MAIN();
