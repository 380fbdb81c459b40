#include "attention/linear/forget_gate.h"

#include "runtime/ops/pointwise.h"
#include "runtime/vector_sigmoid.h"
#include "runtime/vector_softplus.h"

namespace longship {
namespace {

struct LogForget {
  double floor;

  template <class A>
  A value(A a) const {
    const A low = static_cast<A>(floor);
    const A forgotten = (1 - low) * vector_sigmoid(-a);
    const A f = low + (1 - low) * vector_sigmoid(a);
    // log f from 1 - f where f is near 1, and without a division by 0 where it vanishes.
    const A half_or_more = -vector_log1p(std::min(forgotten / f, A{1}));
    const A below_half = low == 0 ? -vector_softplus(-a) : vector_log(f);
    return 2 * f >= 1 ? half_or_more : below_half;
  }

  template <class A>
  A slope(A a) const {
    const A low = static_cast<A>(floor);
    const A s = vector_sigmoid(a), rest = vector_sigmoid(-a);
    return low == 0 ? rest : (1 - low) * s * rest / (low + (1 - low) * s);
  }
};

struct Forgotten {
  double floor;

  template <class A>
  A value(A a) const {
    return static_cast<A>(1 - floor) * vector_sigmoid(-a);
  }
  template <class A>
  A slope(A a) const {
    return -static_cast<A>(1 - floor) * vector_sigmoid(a) * vector_sigmoid(-a);
  }
};

}  // namespace

ForgetGate forget_gate(Context& ctx, const Variable& a, double floor) {
  LONGSHIP_CHECK(floor >= 0 && floor < 1, "forget gate with floor {}", floor);
  return {pointwise(ctx, "log_forget", a, accumulator_dtype(a.dtype()), LogForget{floor}),
          pointwise(ctx, "forgotten", a, a.dtype(), Forgotten{floor})};
}

}  // namespace longship
