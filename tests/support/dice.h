// Random numbers in order of use, for tests that make up their cases from a seed.
#pragma once

#include <initializer_list>

#include "runtime/random.h"

namespace longship::testing {

class Dice {
 public:
  explicit Dice(uint64_t seed) : seed_(seed) {}

  // In [0, bound).
  int64_t below(int64_t bound) {
    return static_cast<int64_t>(uniform_index(seed_, 5, count_++, static_cast<uint64_t>(bound)));
  }
  bool one_in(int64_t bound) { return below(bound) == 0; }
  int64_t one_of(std::initializer_list<int64_t> values) {
    return values.begin()[below(static_cast<int64_t>(values.size()))];
  }

 private:
  uint64_t seed_, count_ = 0;
};

}  // namespace longship::testing
