// Linear attention on one core, as a layer without sequence parallelism runs it: time per token,
// GFLOP/s of the chunk form and their share of the core's FMA peak. With chunks of C tokens, key
// size K and value size V, the delta rule takes 3 K V + C (K + V) multiply-adds per token and head
// forward and 9 K V + C (3 K + 2.5 V) backward, recomputation included, triangles counted as half;
// without the delta rule 2 K V + C (K + V) / 2 and 5 K V (6 where gates are learned) + C (1.5 K +
// V). `recurrence` is the forward token by token, which needs only 3 K V.
#include <benchmark/benchmark.h>

#include <cmath>

#include "attention/linear/decay_kernel.h"
#include "attention/linear/delta_kernel.h"
#include "attention/linear/linear_problem.h"
#include "runtime/random.h"
#include "runtime/vector_exp.h"
#include "tests/bench/fma_peak.h"

namespace longship {
namespace {

enum Gate : int64_t { kNone, kScalar, kVector };

struct Case {
  Context ctx;
  LinearInput input;
  std::vector<Segment> segments;
  std::vector<int64_t> cut = {0};
  Tensor states_NHKV, do_THV;
  int64_t T, H, K, V;

  // Arguments: tokens, heads, key size, value size, kind of gate.
  explicit Case(const benchmark::State& state)
      : T(state.range(0)), H(state.range(1)), K(state.range(2)), V(state.range(3)) {
    auto random = [&](Shape shape, uint64_t stream, double scale) {
      const Tensor x = ctx.empty(std::move(shape), DType::kF32);
      for (int64_t i = 0; i < x.numel(); ++i)
        x.data<float>()[i] =
            static_cast<float>(scale * normal(1, stream, static_cast<uint64_t>(i)));
      return x;
    };
    auto negative = [](const Tensor& x) {
      for (int64_t i = 0; i < x.numel(); ++i) x.data<float>()[i] = -std::abs(x.data<float>()[i]);
      return x;
    };
    const double unit = 1 / std::sqrt(static_cast<double>(K));
    const int64_t gate = state.range(4);
    input = {.q_TGK = random({T, H, K}, 1, 1.0),
             .k_TGK = random({T, H, K}, 2, unit),
             .v_THV = random({T, H, V}, 3, 1.0),
             .gate = gate == kNone     ? Tensor()
                     : gate == kScalar ? negative(random({T, H}, 4, 0.1))
                                       : negative(random({T, H, K}, 4, 0.1)),
             .beta_TH = ctx.empty({T, H}, DType::kF32),
             .scale = unit};
    std::fill_n(input.beta_TH.data<float>(), T * H, 0.5f);
    segments = {{.length = T}};
    states_NHKV = ctx.zeros({1, H, K, V}, DType::kF32);
    do_THV = random({T, H, V}, 5, 1.0);
  }

  void report(benchmark::State& state, double multiply_adds) const {
    const double tokens = static_cast<double>(T * state.iterations());
    const double flops = 2e-9 * multiply_adds * static_cast<double>(H) * tokens;
    state.counters["GFLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsRate);
    state.counters["share_of_peak"] =
        benchmark::Counter(flops / fma_peak<float>(), benchmark::Counter::kIsRate);
    state.counters["us_per_token"] = benchmark::Counter(
        1e-6 * tokens, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  }
};

constexpr int64_t kChunk = LinearProblem::kChunkSize;

void run_forward(benchmark::State& state, Case& c, const LinearKernel& kernel) {
  auto run = [&] {
    const auto forward = kernel.forward(c.ctx, c.input, c.segments, c.cut);
    forward->intra(c.ctx);
    benchmark::DoNotOptimize(forward->outputs(c.ctx, c.states_NHKV).raw());
  };
  run();  // the first call gets its memory from the system
  for (auto _ : state) run();
}

void run_backward(benchmark::State& state, Case& c, const LinearKernel& kernel) {
  auto run = [&] {
    const auto backward =
        kernel.backward(c.ctx, c.input, c.segments, c.cut, c.states_NHKV, c.do_THV);
    backward->intra(c.ctx);
    benchmark::DoNotOptimize(backward->gradients(c.ctx, c.states_NHKV).dq_TGK.raw());
  };
  run();
  for (auto _ : state) run();
}

void delta_forward(benchmark::State& state) {
  Case c(state);
  run_forward(state, c, DeltaKernel());
  c.report(state, static_cast<double>(3 * c.K * c.V + kChunk * (c.K + c.V)));
}

void delta_backward(benchmark::State& state) {
  Case c(state);
  run_backward(state, c, DeltaKernel());
  c.report(state, static_cast<double>(9 * c.K * c.V + kChunk * 3 * c.K + kChunk * 5 * c.V / 2));
}

void decay_forward(benchmark::State& state) {
  Case c(state);
  c.input.beta_TH = Tensor();
  run_forward(state, c, DecayKernel());
  c.report(state, static_cast<double>(2 * c.K * c.V + kChunk * (c.K + c.V) / 2));
}

void decay_backward(benchmark::State& state) {
  Case c(state);
  c.input.beta_TH = Tensor();
  run_backward(state, c, DecayKernel());
  const int64_t products = c.input.gate.defined() ? 6 : 5;
  c.report(state, static_cast<double>(products * c.K * c.V + kChunk * 3 * c.K / 2 + kChunk * c.V));
}

// Each token reads and writes the whole state, vectorised along V.
void recurrence(benchmark::State& state) {
  Case c(state);
  std::vector<float> S(static_cast<size_t>(c.K * c.V)), error(static_cast<size_t>(c.V));
  const Tensor o_THV = c.ctx.empty({c.T, c.H, c.V}, DType::kF32);
  for (auto _ : state) {
    for (int64_t h = 0; h < c.H; ++h) {
      std::fill(S.begin(), S.end(), 0.0f);
      for (int64_t t = 0; t < c.T; ++t) {
        const int64_t row = t * c.H + h;
        const float *q = c.input.q_TGK.data<float>() + row * c.K,
                    *k = c.input.k_TGK.data<float>() + row * c.K,
                    *v = c.input.v_THV.data<float>() + row * c.V;
        const float decay = vector_exp(c.input.gate.data<float>()[row]);
        const float beta = c.input.beta_TH.data<float>()[row];
        float* o = o_THV.data<float>() + row * c.V;
        std::copy_n(v, c.V, error.data());
        for (int64_t d = 0; d < c.K; ++d)
          for (int64_t j = 0; j < c.V; ++j)
            error[static_cast<size_t>(j)] -= decay * k[d] * S[static_cast<size_t>(d * c.V + j)];
        std::fill_n(o, c.V, 0.0f);
        for (int64_t d = 0; d < c.K; ++d) {
          float* cells = S.data() + d * c.V;
          for (int64_t j = 0; j < c.V; ++j) {
            cells[j] = decay * cells[j] + beta * k[d] * error[static_cast<size_t>(j)];
            o[j] += static_cast<float>(c.input.scale) * q[d] * cells[j];
          }
        }
      }
    }
    benchmark::DoNotOptimize(o_THV.raw());
  }
  c.report(state, static_cast<double>(3 * c.K * c.V));
}

void cases(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"tokens", "heads", "K", "V", "gate"})
      ->Args({4096, 4, 128, 128, kNone})
      ->Args({4096, 4, 128, 128, kScalar})
      ->Args({4096, 4, 128, 128, kVector})
      ->Args({4096, 4, 64, 64, kScalar})
      ->Args({1024, 4, 128, 128, kScalar})
      ->Args({16384, 4, 128, 128, kScalar})
      ->Args({65536, 4, 128, 128, kScalar})
      ->Unit(benchmark::kMillisecond);
}

BENCHMARK(delta_forward)->Apply(cases);
BENCHMARK(delta_backward)->Apply(cases);
BENCHMARK(decay_forward)->Apply(cases);
BENCHMARK(decay_backward)->Apply(cases);
BENCHMARK(recurrence)->Args({4096, 4, 128, 128, kScalar})->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace longship

BENCHMARK_MAIN();
