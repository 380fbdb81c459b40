// The calls of the CUDA driver that its runtime library lacks. The driver is asked for them at
// run time, so that the program starts where there is none.
#pragma once

#include <cstdint>

#include "runtime/cuda/handles.h"

namespace longship {

// An allocation of a GPU's memory, as cudaMalloc gave it.
struct Allocation {
  uint64_t begin = 0;  // address
  int64_t bytes = 0;
  uint64_t id = 0;  // of this process, never used twice
};
Allocation allocation_of(const void* address);

// Stream memory operations on a word of any GPU's memory; no kernel is involved. What the stream
// did before is visible to whoever sees the value. A wait ends when the word is `value` or ahead
// of it by less than 2^31.
void enqueue_write(uint32_t* word, uint32_t value, StreamHandle stream);
void enqueue_wait(uint32_t* word, uint32_t value, StreamHandle stream);

}  // namespace longship
