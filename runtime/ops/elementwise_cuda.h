// Ops that compute each element from those at the same place, on a GPU: packed arrays of fp32 or
// bf16, computed with in fp32. One pass: each element is read and written once.
#pragma once

#include <cstdint>

#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

struct ElementwiseCuda {
  DType dtype = DType::kF32;  // of all arrays
  int64_t num_elements = 0;
  const void* inputs[3] = {};
  void* outputs[2] = {};  // each may be an input, but not a part of one
};

// a, b -> a + b
void add_cuda(const ElementwiseCuda& op, StreamHandle stream);
// x -> factor x
void scale_cuda(const ElementwiseCuda& op, float factor, StreamHandle stream);
// x -> x sigmoid(x), and x, dy -> dx
void silu_forward_cuda(const ElementwiseCuda& op, StreamHandle stream);
void silu_backward_cuda(const ElementwiseCuda& op, StreamHandle stream);
// x, gate -> x sigmoid(gate), and x, gate, dy -> dx, dgate
void sigmoid_gate_forward_cuda(const ElementwiseCuda& op, StreamHandle stream);
void sigmoid_gate_backward_cuda(const ElementwiseCuda& op, StreamHandle stream);
// gate, up -> silu(gate) up, and gate, up, dy -> dgate, dup
void swiglu_forward_cuda(const ElementwiseCuda& op, StreamHandle stream);
void swiglu_backward_cuda(const ElementwiseCuda& op, StreamHandle stream);

}  // namespace longship
