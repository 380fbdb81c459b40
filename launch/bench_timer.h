// How long work takes on all ranks of a job.
#pragma once

#include <functional>
#include <vector>

#include "parallel/group.h"
#include "runtime/context.h"

namespace longship {

struct BenchRounds {
  int num_warmups = 2;
  int num_rounds = 5;
};

// Of at least one value; the upper one in the middle of an even number.
double median(std::vector<double> values);

class BenchTimer {
 public:
  using Work = std::function<void()>;

  // Of what the ranks of `world` do on the device of `ctx`.
  BenchTimer(Context ctx, Group world, const BenchRounds& rounds)
      : ctx_(std::move(ctx)), world_(std::move(world)), rounds_(rounds) {}

  // The median over rounds of what the slowest rank took: by events of its compute stream on a GPU,
  // by the wall clock on the CPU. All ranks begin a round together; short work is repeated in it,
  // so that what is timed is a GPU that is kept busy. Collective.
  double median_ms(const Work& work) const;

  struct Comparison {
    double ms = 0, other_ms = 0;  // as median_ms()
    double difference_ms = 0;     // the median over rounds of ms - other_ms of that round
  };
  // Times both in every round, by turns: first the one, then the other, in the next round the
  // other way about. What changes slowly, as the clock of a GPU at its power limit does, changes
  // both times of a round and leaves their difference. Collective.
  Comparison compare(const Work& work, const Work& other) const;

 private:
  class Series;

  Context ctx_;
  Group world_;
  BenchRounds rounds_;
};

}  // namespace longship
