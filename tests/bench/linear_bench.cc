// Speed of linear and of the loss at the sizes of a small model, in GFLOP/s.
#include <benchmark/benchmark.h>

#include <algorithm>

#include "runtime/ops/linear.h"
#include "runtime/ops/linear_cross_entropy.h"

namespace longship {
namespace {

Tensor filled(Context& ctx, Shape shape, DType dtype) {
  Tensor tensor = ctx.empty(std::move(shape), DType::kF32);
  float* data = tensor.data<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) data[i] = static_cast<float>(i % 17 - 8) / 8;
  return tensor.to(dtype);
}

// Arguments: T, I, O, dtype, threads.
void linear_forward(benchmark::State& state) {
  Context ctx;
  ctx.num_threads = static_cast<int>(state.range(4));
  const DType dtype = static_cast<DType>(state.range(3));
  const Variable x(filled(ctx, {state.range(0), state.range(1)}, dtype));
  const Variable w(filled(ctx, {state.range(2), state.range(1)}, dtype));
  for (auto _ : state) benchmark::DoNotOptimize(linear(ctx, x, w).value().raw());
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * state.range(0) * state.range(1) * state.range(2),
                         benchmark::Counter::kIsIterationInvariantRate);
}

void linear_step(benchmark::State& state) {
  Context ctx;
  Tape tape;
  ctx.tape = &tape;
  ctx.num_threads = static_cast<int>(state.range(4));
  const DType dtype = static_cast<DType>(state.range(3));
  const Variable x = Variable::leaf(filled(ctx, {state.range(0), state.range(1)}, dtype));
  const Variable w = Variable::leaf(filled(ctx, {state.range(2), state.range(1)}, dtype));
  const Tensor dy = filled(ctx, {state.range(0), state.range(2)}, dtype);
  for (auto _ : state) {
    tape.backward(ctx, linear(ctx, x, w), dy);
    x.gradient()->clear();
  }
  state.counters["GFLOP/s"] =
      benchmark::Counter(6e-9 * state.range(0) * state.range(1) * state.range(2),
                         benchmark::Counter::kIsIterationInvariantRate);
}

void shapes(benchmark::internal::Benchmark* bench) {
  for (int64_t dtype : {static_cast<int64_t>(DType::kF32), static_cast<int64_t>(DType::kBF16)})
    for (int64_t threads : {1, 2}) {
      bench->Args({1024, 256, 768, dtype, threads});
      bench->Args({1024, 768, 256, dtype, threads});
      bench->Args({1024, 256, 64, dtype, threads});
      bench->Args({4096, 2048, 2048, dtype, threads});
      bench->Args({1, 256, 768, dtype, threads});
    }
}

// Loss and its gradients. Arguments: T, E, V, dtype, threads.
void loss_step(benchmark::State& state) {
  Context ctx;
  Tape tape;
  ctx.tape = &tape;
  ctx.num_threads = static_cast<int>(state.range(4));
  const DType dtype = static_cast<DType>(state.range(3));
  const int64_t T = state.range(0), E = state.range(1), V = state.range(2);
  const Variable h = Variable::leaf(filled(ctx, {T, E}, dtype));
  const Variable head = Variable::leaf(filled(ctx, {V, E}, dtype));
  const Tensor targets = ctx.zeros({T}, DType::kI32), weights = ctx.empty({T}, DType::kF32);
  std::fill_n(weights.data<float>(), T, 1.0f);
  for (auto _ : state) {
    tape.backward(ctx, linear_cross_entropy(ctx, h, head, targets, weights, 1024));
    h.gradient()->clear();
    head.gradient()->clear();
  }
  state.counters["GFLOP/s"] = benchmark::Counter(6e-9 * static_cast<double>(T * E * V),
                                                 benchmark::Counter::kIsIterationInvariantRate);
}

void loss_shapes(benchmark::internal::Benchmark* bench) {
  for (int64_t dtype : {static_cast<int64_t>(DType::kF32), static_cast<int64_t>(DType::kBF16)})
    for (int64_t threads : {1, 2}) {
      bench->Args({1024, 256, 258, dtype, threads});
      bench->Args({2048, 1024, 32000, dtype, threads});
    }
}

BENCHMARK(loss_step)->Apply(loss_shapes)->UseRealTime();
BENCHMARK(linear_forward)->Apply(shapes)->UseRealTime();
BENCHMARK(linear_step)->Apply(shapes)->UseRealTime();

}  // namespace
}  // namespace longship

BENCHMARK_MAIN();
