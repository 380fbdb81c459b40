// Keys and values of some tokens and KV heads, or their gradients, which go everywhere together.
#pragma once

#include <cstdint>

#include "parallel/attention_shape.h"
#include "parallel/tensor_rows.h"
#include "runtime/context.h"

namespace longship {

struct KeyValue {
  Tensor k_SKD, v_SKV;

  // Uninitialised; head sizes as in `shape`.
  static KeyValue empty(const Context& ctx, const AttentionShape& shape, int64_t num_rows,
                        int64_t num_heads, DType dtype) {
    return {ctx.empty({num_rows, num_heads, shape.head_size}, dtype),
            ctx.empty({num_rows, num_heads, shape.value_size}, dtype)};
  }

  bool defined() const { return k_SKD.defined(); }

  // To be sent and added together.
  operator TensorRows() const { return {k_SKD, v_SKV}; }
};

}  // namespace longship
