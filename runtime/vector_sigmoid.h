// The logistic function as plain arithmetic, for loops that vectorise; see vector_exp.h.
#pragma once

#include <cmath>

#include "runtime/vector_exp.h"

namespace longship {

// 1 / (1 + e^-x), fp32 or fp64, exact to a few units in the last place at both ends: e^-|x| never
// overflows.
template <class A>
inline A vector_sigmoid(A x) {
  const A e = vector_exp(-std::abs(x));
  return (x >= 0 ? A{1} : e) / (1 + e);
}

}  // namespace longship
