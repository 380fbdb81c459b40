// Speed of linear and of the loss at the sizes of a small model, in GFLOP/s.
#include <benchmark/benchmark.h>

#include "runtime/ops/linear.h"

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

BENCHMARK(linear_forward)->Apply(shapes)->UseRealTime();
BENCHMARK(linear_step)->Apply(shapes)->UseRealTime();

}  // namespace
}  // namespace longship

BENCHMARK_MAIN();
