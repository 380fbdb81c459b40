// What weights, gradients and optimizer state take of a rank's memory.
#pragma once

#include <cstdint>
#include <string>

#include "launch/config.pb.h"

namespace longship {

// Bytes on each rank, by train.precision, optim.bf16_moments and parallel.zero.
struct StateMemory {
  int64_t weights = 0;  // fp32 masters, and copies that ops read
  int64_t gradients = 0;
  int64_t moments = 0;
};
StateMemory state_memory(const config::Run& run, int64_t num_parameters, int num_ranks);

// The same in words.
std::string state_memory_text(const config::Run& run, int64_t num_parameters, int num_ranks);

}  // namespace longship
