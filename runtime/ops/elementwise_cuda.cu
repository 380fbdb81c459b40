#include "runtime/ops/elementwise_cuda.h"

#include "runtime/cuda/cuda_error.h"
#include "runtime/cuda/elementwise.cuh"
#include "runtime/cuda/sigmoid.cuh"

namespace longship {
namespace {

struct Add {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const {
    out[0] = in[0] + in[1];
  }
};

struct Scale {
  float factor;

  __device__ void operator()(const float (&in)[1], float (&out)[1]) const {
    out[0] = factor * in[0];
  }
};

struct SiluForward {
  __device__ void operator()(const float (&in)[1], float (&out)[1]) const {
    out[0] = in[0] * sigmoid(in[0]);
  }
};

// Of silu at x, with s = sigmoid(x).
__device__ float silu_slope(float x, float s) {
  return s * (1 + x * (1 - s));
}

struct SiluBackward {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const {
    const auto [x, dy] = in;
    out[0] = dy * silu_slope(x, sigmoid(x));
  }
};

struct SigmoidGateForward {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const {
    out[0] = in[0] * sigmoid(in[1]);
  }
};

struct SigmoidGateBackward {
  __device__ void operator()(const float (&in)[3], float (&out)[2]) const {
    const auto [x, gate, dy] = in;
    const float s = sigmoid(gate);
    out[0] = dy * s;
    out[1] = dy * s * x * (1 - s);
  }
};

struct SwigluForward {
  __device__ void operator()(const float (&in)[2], float (&out)[1]) const {
    out[0] = in[0] * sigmoid(in[0]) * in[1];
  }
};

struct SwigluBackward {
  __device__ void operator()(const float (&in)[3], float (&out)[2]) const {
    const auto [gate, up, dy] = in;
    const float s = sigmoid(gate);
    out[0] = dy * up * silu_slope(gate, s);
    out[1] = dy * gate * s;
  }
};

template <int kInputs, int kOutputs, class F>
void launch(const ElementwiseCuda& op, const F& f, const char* name, StreamHandle stream) {
  ElementwiseArrays<kInputs, kOutputs> arrays{.num_elements = op.num_elements};
  std::copy_n(op.inputs, kInputs, arrays.inputs);
  std::copy_n(op.outputs, kOutputs, arrays.outputs);
  dispatch_cuda_dtype(op.dtype,
                      [&](auto tag) { launch_elementwise<decltype(tag)>(arrays, f, stream); });
  check_launch(name);
}

}  // namespace

void add_cuda(const ElementwiseCuda& op, StreamHandle stream) {
  launch<2, 1>(op, Add{}, "add", stream);
}

void scale_cuda(const ElementwiseCuda& op, float factor, StreamHandle stream) {
  launch<1, 1>(op, Scale{factor}, "scale", stream);
}

void silu_forward_cuda(const ElementwiseCuda& op, StreamHandle stream) {
  launch<1, 1>(op, SiluForward{}, "silu forward", stream);
}

void silu_backward_cuda(const ElementwiseCuda& op, StreamHandle stream) {
  launch<2, 1>(op, SiluBackward{}, "silu backward", stream);
}

void sigmoid_gate_forward_cuda(const ElementwiseCuda& op, StreamHandle stream) {
  launch<2, 1>(op, SigmoidGateForward{}, "sigmoid_gate forward", stream);
}

void sigmoid_gate_backward_cuda(const ElementwiseCuda& op, StreamHandle stream) {
  launch<3, 2>(op, SigmoidGateBackward{}, "sigmoid_gate backward", stream);
}

void swiglu_forward_cuda(const ElementwiseCuda& op, StreamHandle stream) {
  launch<2, 1>(op, SwigluForward{}, "swiglu forward", stream);
}

void swiglu_backward_cuda(const ElementwiseCuda& op, StreamHandle stream) {
  launch<3, 2>(op, SwigluBackward{}, "swiglu backward", stream);
}

}  // namespace longship
