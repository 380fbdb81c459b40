// What one call of an op makes and later calls use again, such as a table in a GPU's memory, where
// the GPU may repeat its work by itself (runtime/cuda/graph.h): it must not lie in the memory of
// that work, and has to live as long as the work can be repeated.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "runtime/context.h"

namespace longship {

struct LongLived {
  std::shared_ptr<Memory> memory;                 // for what outlives the work
  std::vector<std::shared_ptr<const void>> used;  // by the work; may name one thing often
};

// A context whose tensors outlive the work of `ctx`.
inline Context long_lived_context(const Context& ctx) {
  Context outer = ctx;
  if (ctx.long_lived != nullptr) outer.memory = ctx.long_lived->memory;
  return outer;
}

// Says that the work of `ctx` uses `object`, also when it is repeated.
inline void use_long_lived(const Context& ctx, std::shared_ptr<const void> object) {
  if (ctx.long_lived != nullptr) ctx.long_lived->used.push_back(std::move(object));
}

}  // namespace longship
