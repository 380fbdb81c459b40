// Working space of a parallel loop: the same named parts for every thread, allocated once from the
// Context's memory.
#pragma once

#include <omp.h>

#include <initializer_list>
#include <vector>

#include "attention/simd.h"
#include "runtime/context.h"

namespace longship {

template <class A>
class ThreadScratch {
 public:
  // Part i holds sizes[i] numbers, aligned to the vector size and uninitialised.
  ThreadScratch(const Context& ctx, std::initializer_list<int64_t> sizes) {
    constexpr int64_t kStep = 64 / static_cast<int64_t>(sizeof(A));
    for (int64_t size : sizes) {
      offsets_.push_back(stride_);
      stride_ += (size + kStep - 1) / kStep * kStep;
    }
    buffer_ = ctx.empty({ctx.num_threads, stride_}, DTypeOf<A>::value);
  }

  // A part of the thread that calls, inside parallel_for or parallel_for_dynamic of the Context.
  A* part(size_t index) const {
    return buffer_.template data<A>() + omp_get_thread_num() * stride_ + offsets_[index];
  }

 private:
  std::vector<int64_t> offsets_;
  int64_t stride_ = 0;
  Tensor buffer_;
};

}  // namespace longship
