// The kinds of cases of `longship bench`, one source file each: bench_attention.cc,
// bench_collectives.cc, bench_step.cc. All are collective over job.world.
#pragma once

#include "launch/bench_report.h"
#include "launch/bench_timer.h"
#include "launch/verbs.h"

namespace longship {

// Softmax attention over all ranks, forward and backward, for every length and strategy asked for.
void bench_attention(Job& job, const BenchArguments& arguments, const BenchTimer& timer,
                     BenchReport& report);

// Operations of Group for every message size asked for.
void bench_collectives(Job& job, const BenchArguments& arguments, const BenchTimer& timer,
                       BenchReport& report);

// Whole optimizer steps of the configuration asked for, on random tokens.
void bench_step(Job& job, const BenchArguments& arguments, const BenchTimer& timer,
                BenchReport& report);

}  // namespace longship
