// How far a GPU is with the operations of a group, as two words in its memory: the number of the
// last one that the compute stream has let begin, and of the last one that the group's stream has
// ended. Streams wait for these words. One call of the driver carries many writes and waits, where
// events take a call each.
#pragma once

#include <cstdint>

#include "parallel/cuda/cuda_driver.h"
#include "runtime/gpu.h"

namespace longship {

class OperationWords {
 public:
  enum Kind { kBegun, kEnded, kNumKinds };

  explicit OperationWords(const Gpu& gpu);

  // Operations are numbered from 1 on, in their order.
  void write(WordOperations& operations, Kind kind, int64_t number) const {
    operations.write(word(kind), static_cast<uint32_t>(number));
  }
  void wait(WordOperations& operations, Kind kind, int64_t number) const {
    operations.wait(word(kind), static_cast<uint32_t>(number));
  }

  struct Progress {
    uint32_t words[kNumKinds] = {};
    bool has_come(Kind kind, int64_t number) const {
      return static_cast<int32_t>(words[kind] - static_cast<uint32_t>(number)) >= 0;
    }
  };
  // Asks the GPU, by a stream that waits for nobody.
  Progress read(const Stream& query) const;

 private:
  uint32_t* word(Kind kind) const { return reinterpret_cast<uint32_t*>(words_.address()) + kind; }

  Tensor words_;  // [kNumKinds], of the GPU
};

}  // namespace longship
