// Speed of the ops that work token by token. They should be bound by memory, so each is compared
// with a plain copy that moves the same number of bytes on the same threads: `ratio` is the part
// of the copy's speed that the op reaches. Bytes are what the op must read and write once; rates
// are those of the fastest run, which other work on the machine disturbs least.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "runtime/ops/add.h"
#include "runtime/ops/embedding.h"
#include "runtime/ops/merge_partials.h"
#include "runtime/ops/rms_norm.h"
#include "runtime/ops/rope.h"
#include "runtime/ops/swiglu.h"
#include "runtime/parallel_for.h"
#include "runtime/seconds_since.h"

namespace longship {
namespace {

constexpr int64_t kTokens = 8192;
constexpr int64_t kHeadSize = 128;

Tensor filled(Context& ctx, Shape shape, DType dtype) {
  const Tensor tensor = ctx.empty(std::move(shape), DType::kF32);
  for (int64_t i = 0; i < tensor.numel(); ++i)
    tensor.data<float>()[i] = static_cast<float>(i % 17 - 8) / 8;
  return tensor.to(dtype);
}

template <class F>
double seconds(F&& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return seconds_since(start);
}

// Bytes per second, read plus written.
double copy_rate(Context& ctx, int64_t moved_bytes) {
  const int64_t num_bytes = moved_bytes / 2;
  const Tensor from = ctx.zeros({num_bytes}, DType::kU8), to = ctx.zeros({num_bytes}, DType::kU8);
  double best_s = std::numeric_limits<double>::infinity();
  for (int repeat = 0; repeat < 10; ++repeat) {
    best_s = std::min(best_s, seconds([&] {
                        parallel_for(ctx, num_bytes, 1 << 16, [&](int64_t begin, int64_t end) {
                          std::memcpy(to.raw() + begin, from.raw() + begin,
                                      static_cast<size_t>(end - begin));
                        });
                      }));
  }
  return static_cast<double>(2 * num_bytes) / best_s;
}

// Arguments of every benchmark: features per token, dtype, threads.
struct Case {
  Context ctx;
  Tape tape;
  int64_t num_features;
  DType dtype;

  explicit Case(const benchmark::State& state)
      : num_features(state.range(0)), dtype(static_cast<DType>(state.range(1))) {
    ctx.num_threads = static_cast<int>(state.range(2));
  }

  Tensor tokens() { return filled(ctx, {kTokens, num_features}, dtype); }
  Tensor heads() { return filled(ctx, {kTokens, num_features / kHeadSize, kHeadSize}, dtype); }

  // Times run() after an untimed prepare(); `tensors` counts the [tokens, features] tensors that
  // run() reads or writes.
  template <class P, class F>
  void measure(benchmark::State& state, int64_t tensors, P&& prepare, F&& run) {
    const double bytes = static_cast<double>(tensors * kTokens * num_features * dtype_size(dtype));
    const double copy = copy_rate(ctx, static_cast<int64_t>(bytes));
    double best_s = std::numeric_limits<double>::infinity();
    prepare();
    run();
    for (auto _ : state) {
      prepare();
      const double elapsed_s = seconds(run);
      state.SetIterationTime(elapsed_s);
      best_s = std::min(best_s, elapsed_s);
    }
    state.counters["GB/s"] = bytes / best_s * 1e-9;
    state.counters["copy_GB/s"] = copy * 1e-9;
    state.counters["ratio"] = bytes / best_s / copy;
  }

  template <class F>
  void measure(benchmark::State& state, int64_t tensors, F&& run) {
    measure(
        state, tensors, [] {}, run);
  }

  // Times the backward of op(), which is recorded anew before every run.
  template <class F>
  void measure_backward(benchmark::State& state, int64_t tensors, const Tensor& dy, F&& op) {
    ctx.tape = &tape;
    Variable y;
    measure(
        state, tensors, [&] { y = op(); }, [&] { tape.backward(ctx, y, dy); });
  }
};

void add_forward(benchmark::State& state) {
  Case c(state);
  const Variable a(c.tokens()), b(c.tokens());
  c.measure(state, 3, [&] { add(c.ctx, a, b); });
}

void rms_norm_forward(benchmark::State& state) {
  Case c(state);
  const Variable x(c.tokens()), weight(filled(c.ctx, {c.num_features}, c.dtype));
  c.measure(state, 2, [&] { rms_norm(c.ctx, x, weight, 1e-5); });
}

void rms_norm_backward(benchmark::State& state) {
  Case c(state);
  const Variable x(c.tokens(), std::make_shared<Gradient>(Shape{kTokens, c.num_features}, c.dtype));
  const Variable weight = Variable::leaf(filled(c.ctx, {c.num_features}, c.dtype));
  c.measure_backward(state, 3, c.tokens(), [&] {
    x.gradient()->clear();
    return rms_norm(c.ctx, x, weight, 1e-5);
  });
}

void swiglu_forward(benchmark::State& state) {
  Case c(state);
  const Variable gate(c.tokens()), up(c.tokens());
  c.measure(state, 3, [&] { swiglu(c.ctx, gate, up); });
}

void swiglu_backward(benchmark::State& state) {
  Case c(state);
  const Shape shape{kTokens, c.num_features};
  const Variable gate(c.tokens(), std::make_shared<Gradient>(shape, c.dtype));
  const Variable up(c.tokens(), std::make_shared<Gradient>(shape, c.dtype));
  c.measure_backward(state, 5, c.tokens(), [&] {
    gate.gradient()->clear();
    up.gradient()->clear();
    return swiglu(c.ctx, gate, up);
  });
}

Tensor ascending(Context& ctx) {
  const Tensor positions = ctx.empty({kTokens}, DType::kI64);
  for (int64_t t = 0; t < kTokens; ++t) positions.data<int64_t>()[t] = t;
  return positions;
}

void rope_forward(benchmark::State& state) {
  Case c(state);
  const Variable x(c.heads());
  const RopeAngles angles =
      rope_angles(c.ctx, ascending(c.ctx), kHeadSize, 1e4, accumulator_dtype(c.dtype));
  c.measure(state, 2, [&] { rope(c.ctx, x, angles); });
}

void rope_angles_of_positions(benchmark::State& state) {
  Case c(state);
  const Tensor positions = ascending(c.ctx);
  for (auto _ : state)
    state.SetIterationTime(
        seconds([&] { rope_angles(c.ctx, positions, kHeadSize, 1e4, DType::kF32); }));
  state.counters["angles/s"] = benchmark::Counter(static_cast<double>(kTokens * kHeadSize / 2),
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

Tensor skewed_ids(Context& ctx, int64_t vocabulary) {
  const Tensor ids = ctx.empty({kTokens}, DType::kI32);
  for (int64_t t = 0; t < kTokens; ++t)
    ids.data<int32_t>()[t] = static_cast<int32_t>(t % 4 == 0 ? 0 : t * 7919 % vocabulary);
  return ids;
}

void embedding_forward(benchmark::State& state) {
  Case c(state);
  const Variable table(filled(c.ctx, {32000, c.num_features}, c.dtype));
  const Tensor ids = skewed_ids(c.ctx, 32000);
  c.measure(state, 2, [&] { embedding(c.ctx, table, ids); });
}

void embedding_backward(benchmark::State& state) {
  Case c(state);
  const Variable table = Variable::leaf(filled(c.ctx, {32000, c.num_features}, c.dtype));
  const Tensor ids = skewed_ids(c.ctx, 32000);
  // Reads dy, reads and writes the fp32 rows of the gradient.
  const int64_t tensors = 1 + 2 * dtype_size(accumulator_dtype(c.dtype)) / dtype_size(c.dtype);
  c.measure_backward(state, tensors, c.tokens(), [&] { return embedding(c.ctx, table, ids); });
}

void merge_partials_forward(benchmark::State& state) {
  Case c(state);
  const Tensor o = c.heads(), part = c.heads();
  const Tensor lse = filled(c.ctx, {kTokens, c.num_features / kHeadSize}, c.dtype);
  const Tensor part_lse = lse.clone();
  c.measure(state, 3, [&] { merge_partials(c.ctx, o, lse, part, part_lse); });
}

void fp32_cases(benchmark::internal::Benchmark* bench) {
  for (int64_t threads : {1, 2})
    for (int64_t features : {256, 2048})
      bench->Args({features, static_cast<int64_t>(DType::kF32), threads});
  bench->ArgNames({"features", "dtype", "threads"})->UseManualTime();
}

void cases(benchmark::internal::Benchmark* bench) {
  fp32_cases(bench);
  for (int64_t threads : {1, 2})
    for (int64_t features : {256, 2048})
      bench->Args({features, static_cast<int64_t>(DType::kBF16), threads});
}

BENCHMARK(add_forward)->Apply(cases);
BENCHMARK(rms_norm_forward)->Apply(cases);
BENCHMARK(rms_norm_backward)->Apply(cases);
BENCHMARK(swiglu_forward)->Apply(cases);
BENCHMARK(swiglu_backward)->Apply(cases);
BENCHMARK(rope_forward)->Apply(cases);
BENCHMARK(rope_angles_of_positions)
    ->Args({kHeadSize, static_cast<int64_t>(DType::kF32), 1})
    ->Args({kHeadSize, static_cast<int64_t>(DType::kF32), 2})
    ->ArgNames({"features", "dtype", "threads"})
    ->UseManualTime();
BENCHMARK(embedding_forward)->Apply(cases);
BENCHMARK(embedding_backward)->Apply(cases);
BENCHMARK(merge_partials_forward)->Apply(fp32_cases);

}  // namespace
}  // namespace longship

BENCHMARK_MAIN();
