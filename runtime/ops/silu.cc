#include "runtime/ops/silu.h"

#include "runtime/ops/pointwise.h"
#include "runtime/vector_sigmoid.h"

namespace longship {
namespace {

struct Silu {
  template <class A>
  A value(A x) const {
    return x * vector_sigmoid(x);
  }
  template <class A>
  A slope(A x) const {
    const A s = vector_sigmoid(x);
    return s * (1 + x * (1 - s));
  }
  void forward_cuda(const ElementwiseCuda& op, StreamHandle stream) const {
    silu_forward_cuda(op, stream);
  }
  void backward_cuda(const ElementwiseCuda& op, StreamHandle stream) const {
    silu_backward_cuda(op, stream);
  }
};

}  // namespace

Variable silu(Context& ctx, const Variable& x) {
  return pointwise(ctx, "silu", x, x.dtype(), Silu{});
}

}  // namespace longship
