// Sums in an order that vectorises but is our own, so that neither the width of a machine's
// vectors nor the place of the data changes it; they round far less than one running sum.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace longship {

// term(0) + ... + term(count - 1), where partial sum p takes the terms p, p + 16, p + 32, ... and
// the partial sums are added in order. `term` returns A.
template <class A, class Term>
inline A interleaved_sum(int64_t count, Term&& term) {
  constexpr int64_t kPartials = 16;
  std::array<A, kPartials> partial{};
  int64_t i = 0;
  for (; i + kPartials <= count; i += kPartials)
    for (int64_t p = 0; p < kPartials; ++p) partial[static_cast<size_t>(p)] += term(i + p);
  for (int64_t p = 0; i + p < count; ++p) partial[static_cast<size_t>(p)] += term(i + p);
  A sum = 0;
  for (const A value : partial) sum += value;
  return sum;
}

}  // namespace longship
