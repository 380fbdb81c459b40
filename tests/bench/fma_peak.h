// What one core can compute at most: the bound that benchmarks of matrix products compare with.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <ctime>
#include <limits>

#include "attention/simd.h"

namespace longship {

// GFLOP/s of FMAs on registers, the best of a few tries.
template <class A>
double fma_peak() {
  using Vector = typename Simd<A>::Vector;
  constexpr int kChains = 12;
  constexpr int64_t kSteps = 5'000'000;
  Vector sums[kChains] = {};
  const Vector factor = Simd<A>::broadcast(A(0.999));
  Vector term = Simd<A>::broadcast(A(1e-3));
  double shortest_s = std::numeric_limits<double>::infinity();
  for (int repeat = 0; repeat < 5; ++repeat) {
    const std::clock_t start = std::clock();
    for (int64_t step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
      for (Vector& sum : sums) sum = sum * factor + term;
      asm volatile("" : "+v"(term));  // keeps the loop from being folded
    }
    const double elapsed_s = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    shortest_s = std::min(shortest_s, elapsed_s);
  }
  for (Vector& sum : sums) benchmark::DoNotOptimize(sum);
  return 2.0 * kChains * Simd<A>::kLanes * kSteps / shortest_s / 1e9;
}

}  // namespace longship
