// What executes attention calls: cuDNN on a GPU, plain loops in tests.
//
// Shapes: T query rows, S key rows, H query heads, K key/value heads, D head size, V value size.
#pragma once

#include "attention/cuda/attention_call.h"
#include "runtime/context.h"

namespace longship {

// All contiguous; query head h uses key/value head h * K / H, and K divides H.
struct CallForward {
  Tensor q_THD, k_SKD, v_SKV;
  double scale = 1.0;
  Tensor o_THV;   // in q's dtype
  Tensor lse_TH;  // natural log, in the accumulator dtype
};

struct CallBackward {
  Tensor q_THD, k_SKD, v_SKV;
  double scale = 1.0;
  Tensor o_THV, lse_TH, do_THV;   // of whole (merged) rows; o and do in q's dtype
  Tensor dq_THD, dk_SKD, dv_SKV;  // in q's dtype
};

class CallKernel {
 public:
  virtual ~CallKernel() = default;

  // Writes o and lse of the rows of the entries of `call`, or the gradients of their rows, and
  // leaves all other rows as they are.
  virtual void forward(Context& ctx, const AttentionCall& call, const CallForward& op) const = 0;
  virtual void backward(Context& ctx, const AttentionCall& call, const CallBackward& op) const = 0;
};

}  // namespace longship
