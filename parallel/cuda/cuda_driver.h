// The calls of the CUDA driver that its runtime library lacks. The driver is asked for them at
// run time, so that the program starts where there is none.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/cuda/handles.h"

namespace longship {

// An allocation of a GPU's memory, as cudaMalloc gave it.
struct Allocation {
  uint64_t begin = 0;  // address
  int64_t bytes = 0;
  uint64_t id = 0;  // of this process, never used twice
};
Allocation allocation_of(const void* address);
// Its id alone, which takes a third of the time.
uint64_t allocation_id_of(const void* address);

// Stream memory operations on words of any GPU's memory; no kernel is involved.
class WordOperations {
 public:
  // What the stream did before is visible to whoever sees the value.
  void write(uint32_t* word, uint32_t value) { operations_.push_back({true, word, value}); }
  // Ends when the word is `value` or ahead of it by less than 2^31.
  void wait(uint32_t* word, uint32_t value) { operations_.push_back({false, word, value}); }
  // Enqueues them in this order, which takes one call of the driver, and forgets them.
  void enqueue(StreamHandle stream);

 private:
  struct Operation {
    bool is_write = false;
    uint32_t* word = nullptr;
    uint32_t value = 0;
  };
  std::vector<Operation> operations_;
};

}  // namespace longship
