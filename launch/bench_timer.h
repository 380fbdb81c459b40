// How long work takes on all ranks of a job.
#pragma once

#include <functional>

#include "launch/job.h"

namespace longship {

struct BenchRounds {
  int num_warmups = 2;
  int num_rounds = 5;
};

// The median over rounds of what the slowest rank took: by events of its compute stream on a GPU,
// by the wall clock on the CPU. All ranks begin a round together; short work is repeated in it, so
// that what is timed is a GPU that is kept busy. Collective.
double median_ms(const Job& job, const BenchRounds& rounds, const std::function<void()>& work);

}  // namespace longship
