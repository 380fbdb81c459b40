#include "attention/linear/decay_gate.h"

#include <vector>

#include "runtime/ops/column_sums.h"
#include "runtime/ops/pointwise.h"
#include "runtime/vector_sigmoid.h"
#include "runtime/vector_softplus.h"

namespace longship {
namespace {

// dy/du and dy/dA_log of a law, which gives y from u = a + dt_bias and rate = exp(A_log).
template <class A>
struct Slopes {
  A u, A_log;
};

// A step size: softplus(u), held between the limits.
struct Step {
  StepLimits limits;
  template <class A>
  A value(A u) const {
    const A free = vector_softplus(u), low = static_cast<A>(limits.low),
            high = static_cast<A>(limits.high);
    const A bounded = free < low ? low : free;
    return bounded > high ? high : bounded;
  }
  template <class A>
  A slope(A u) const {
    return value(u) == vector_softplus(u) ? vector_sigmoid(u) : A{0};
  }
};

struct SoftplusLaw {
  static constexpr const char* kName = "softplus_decay";
  Step step;
  template <class A>
  A value(A u, A rate) const {
    return -rate * step.value(u);
  }
  template <class A>
  Slopes<A> slopes(A u, A rate) const {
    return {-rate * step.slope(u), -rate * step.value(u)};
  }
};

struct BoundedLaw {
  static constexpr const char* kName = "bounded_decay";
  double lower_bound;
  template <class A>
  A value(A u, A rate) const {
    return static_cast<A>(lower_bound) * vector_sigmoid(rate * u);
  }
  template <class A>
  Slopes<A> slopes(A u, A rate) const {
    const A du =
        static_cast<A>(lower_bound) * vector_sigmoid(rate * u) * vector_sigmoid(-rate * u) * rate;
    return {du, du * u};
  }
};

struct StepLaw {
  static constexpr const char* kName = "step_size";
  Step step;
  template <class A>
  A value(A u, A) const {
    return step.value(u);
  }
  template <class A>
  Slopes<A> slopes(A u, A) const {
    return {step.slope(u), A{0}};
  }
};

// exp(A_log) for every gate, in the accumulator type; ones without A_log.
template <class A>
std::vector<A> rates(const Tensor& A_log_H, int64_t F) {
  std::vector<A> result(static_cast<size_t>(F), A{1});
  if (!A_log_H.defined()) return result;
  const int64_t K = F / A_log_H.numel();
  for (int64_t f = 0; f < F; ++f)
    result[static_cast<size_t>(f)] = std::exp(A_log_H.data<A>()[f / K]);
  return result;
}

template <class Law>
struct DecayGateNode final : Node {
  struct Saved {
    Tensor a_TF, A_log_H, dt_bias_F;
  } saved;
  Law law;

  DecayGateNode(Saved kept, Law with) : saved(std::move(kept)), law(with) {}

  const char* name() const override { return Law::kName; }

  void backward(Context& ctx) override {
    const Tensor dy_TF = grad_output(ctx).contiguous();
    const Tensor& a_TF = saved.a_TF;
    dispatch_floating(a_TF.dtype(),
                      [&](auto tag) { add_gradients<decltype(tag)>(ctx, a_TF, dy_TF); });
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("a_TF", saved.a_TF);
    if (saved.A_log_H.defined()) visit("A_log_H", saved.A_log_H);
    visit("dt_bias_F", saved.dt_bias_F);
  }

 private:
  template <class T>
  void add_gradients(Context& ctx, const Tensor& a_TF, const Tensor& dy_TF) const {
    using A = Accumulator<T>;
    const int64_t R = a_TF.dim(0), F = a_TF.dim(1);
    const std::vector<A> rate = rates<A>(saved.A_log_H, F);
    const Tensor& dt_bias_F = saved.dt_bias_F;
    const A* bias = dt_bias_F.data<A>();
    const Tensor da_TF = ctx.empty(a_TF.shape(), a_TF.dtype());
    // First the columns of dt_bias, then those of A_log, gate by gate.
    const Tensor sums_2F = column_sums<A>(ctx, R, 2 * F, [&](int64_t t, A* sums) {
      const T* a = a_TF.data<T>() + t * F;
      const A* dy = dy_TF.data<A>() + t * F;
      T* da = da_TF.data<T>() + t * F;
      const A* r = rate.data();
#pragma GCC ivdep
      for (int64_t f = 0; f < F; ++f) {
        const auto slope = law.slopes(static_cast<A>(a[f]) + bias[f], r[f]);
        const A du = dy[f] * slope.u;
        da[f] = static_cast<T>(du);
        sums[f] += du;
        sums[F + f] += dy[f] * slope.A_log;
      }
    });
    if (input(0)) input(0)->add(ctx, da_TF);
    if (input(1)) {
      const Tensor dA_log_H = ctx.zeros(input(1)->shape(), DType::kF64);
      const int64_t K = F / dA_log_H.numel();
      for (int64_t f = 0; f < F; ++f)
        dA_log_H.data<double>()[f / K] += sums_2F.data<double>()[F + f];
      input(1)->add(ctx, dA_log_H);
    }
    if (input(2)) input(2)->add(ctx, sums_2F.slice(0, 0, F));
  }
};

template <class Law>
Variable decay_gate(Context& ctx, const DecayGateInput& input, Law law) {
  const Tensor a_TF = input.a_TF.value().contiguous();
  const DType sums = accumulator_dtype(a_TF.dtype());
  LONGSHIP_CHECK(a_TF.rank() == 2, "{} of {}", Law::kName, shape_string(a_TF.shape()));
  const int64_t F = a_TF.dim(1);
  auto packed = [&](const Variable& variable) {
    return variable.defined() ? variable.value().to(sums).contiguous() : Tensor();
  };
  const Tensor A_log_H = packed(input.A_log_H), dt_bias_F = packed(input.dt_bias_F);
  LONGSHIP_CHECK(dt_bias_F.numel() == F && (!A_log_H.defined() || F % A_log_H.numel() == 0),
                 "{} of {} gates with dt_bias {}", Law::kName, F, shape_string(dt_bias_F.shape()));
  const Tensor y_TF = ctx.empty(a_TF.shape(), sums);
  dispatch_floating(a_TF.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    const std::vector<A> rate = rates<A>(A_log_H, F);
    const A* bias = dt_bias_F.data<A>();
    for_each_row(ctx, y_TF, F, [&](int64_t first) {
      const T* a = a_TF.data<T>() + first;
      A* y = y_TF.data<A>() + first;
      const A* r = rate.data();
#pragma GCC ivdep
      for (int64_t f = 0; f < F; ++f) y[f] = law.value(static_cast<A>(a[f]) + bias[f], r[f]);
    });
  });
  std::unique_ptr<DecayGateNode<Law>> node;
  if (is_recording(ctx, {&input.a_TF, &input.A_log_H, &input.dt_bias_F}))
    node = std::make_unique<DecayGateNode<Law>>(
        typename DecayGateNode<Law>::Saved{a_TF, A_log_H, dt_bias_F}, law);
  return record(ctx, Law::kName, y_TF, std::move(node),
                {&input.a_TF, &input.A_log_H, &input.dt_bias_F});
}

struct LogSigmoid {
  double normalizer;
  template <class A>
  A value(A x) const {
    return -vector_softplus(-x) / static_cast<A>(normalizer);
  }
  template <class A>
  A slope(A x) const {
    return vector_sigmoid(-x) / static_cast<A>(normalizer);
  }
};

struct ScaledSigmoid {
  double scale;
  template <class A>
  A value(A x) const {
    return static_cast<A>(scale) * vector_sigmoid(x);
  }
  template <class A>
  A slope(A x) const {
    return static_cast<A>(scale) * vector_sigmoid(x) * vector_sigmoid(-x);
  }
};

}  // namespace

Variable softplus_decay(Context& ctx, const DecayGateInput& input, StepLimits limits) {
  return decay_gate(ctx, input, SoftplusLaw{{limits}});
}

Variable bounded_decay(Context& ctx, const DecayGateInput& input, double lower_bound) {
  return decay_gate(ctx, input, BoundedLaw{lower_bound});
}

Variable step_size(Context& ctx, const Variable& a_TF, const Variable& dt_bias_F,
                   StepLimits limits) {
  return decay_gate(ctx, {.a_TF = a_TF, .A_log_H = {}, .dt_bias_F = dt_bias_F}, StepLaw{{limits}});
}

Variable log_sigmoid_decay(Context& ctx, const Variable& a_TF, double normalizer) {
  return pointwise(ctx, "log_sigmoid_decay", a_TF, accumulator_dtype(a_TF.dtype()),
                   LogSigmoid{normalizer});
}

Variable write_strength(Context& ctx, const Variable& b_TH, double max_beta) {
  return pointwise(ctx, "write_strength", b_TH, accumulator_dtype(b_TH.dtype()),
                   ScaledSigmoid{max_beta});
}

}  // namespace longship
