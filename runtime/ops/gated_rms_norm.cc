// R rows, F features in groups of D.
#include "runtime/ops/gated_rms_norm.h"

#include <cmath>

#include "runtime/interleaved_sum.h"
#include "runtime/ops/column_sums.h"
#include "runtime/ops/for_each_row.h"
#include "runtime/vector_sigmoid.h"

namespace longship {
namespace {

template <bool kIsSilu, bool kNormFirst>
struct Law {
  // The gate and its derivative.
  template <class A>
  struct Gate {
    A value, slope;
  };
  template <class A>
  static Gate<A> gate(A z) {
    const A s = vector_sigmoid(z);
    if constexpr (kIsSilu) return {z * s, s * (1 + z * (1 - s))};
    return {s, s * (1 - s)};
  }

  // One group of a row: y = x gate rstd weight in both orders. Returns rstd.
  template <class T, class A = Accumulator<T>>
  static A forward(int64_t D, const T* x, const T* z, const T* weight, double eps, T* y) {
    const A square = interleaved_sum<A>(D, [&](int64_t d) {
      A u = static_cast<A>(x[d]);  // what is normed
      if constexpr (!kNormFirst) u *= gate(static_cast<A>(z[d])).value;
      return u * u;
    });
    const A rstd = 1 / std::sqrt(square / static_cast<A>(D) + static_cast<A>(eps));
#pragma GCC ivdep
    for (int64_t d = 0; d < D; ++d)
      y[d] = static_cast<T>(static_cast<A>(x[d]) * gate(static_cast<A>(z[d])).value * rstd *
                            static_cast<A>(weight[d]));
    return rstd;
  }

  // One group of a row in the backward.
  template <class T, class A = Accumulator<T>>
  struct GroupGradient {
    const T *x, *z, *weight, *dy;
    A rstd;
    T *dx, *dz;
    A* dweight;
  };

  // Overwrites dx and dz, adds to dweight:  with u as above and c = rstd^2 mean(dy y / rstd),
  //   norm first   dx = rstd (weight dy gate - c u)        dz = rstd weight dy u gate'
  //   gate first   dx = rstd (weight dy - c u) gate        dz = rstd (weight dy - c u) x gate'
  template <class T, class A = Accumulator<T>>
  static void backward(int64_t D, const GroupGradient<T>& group) {
    const T *const x = group.x, *const z = group.z, *const weight = group.weight,
                   *const dy = group.dy;
    T *const dx = group.dx, *const dz = group.dz;
    A* const dweight = group.dweight;
    const A rstd = group.rstd;
    const A dot = interleaved_sum<A>(D, [&](int64_t d) {
      return static_cast<A>(dy[d]) * static_cast<A>(weight[d]) * static_cast<A>(x[d]) *
             gate(static_cast<A>(z[d])).value;
    });
    const A c = dot * rstd * rstd / static_cast<A>(D);
#pragma GCC ivdep
    for (int64_t d = 0; d < D; ++d) {
      const Gate<A> g = gate(static_cast<A>(z[d]));
      const A in = static_cast<A>(x[d]), out = static_cast<A>(dy[d]);
      const A scaled = out * static_cast<A>(weight[d]);
      dweight[d] += out * in * g.value * rstd;
      if constexpr (kNormFirst) {
        dx[d] = static_cast<T>(rstd * (scaled * g.value - c * in));
        dz[d] = static_cast<T>(rstd * scaled * in * g.slope);
      } else {
        const A du = rstd * (scaled - c * in * g.value);
        dx[d] = static_cast<T>(du * g.value);
        dz[d] = static_cast<T>(du * in * g.slope);
      }
    }
  }
};

// Calls f with the law of these options.
template <class F>
void with_law(const GatedRmsNormOptions& options, F&& f) {
  const bool is_silu = options.activation == GateActivation::kSilu;
  if (options.norm_before_gate)
    is_silu ? f(Law<true, true>()) : f(Law<false, true>());
  else
    is_silu ? f(Law<true, false>()) : f(Law<false, false>());
}

struct GatedRmsNormNode final : Node {
  struct Saved {
    Tensor x_RF, z_RF, weight_F, rstd_RN;
  } saved;
  GatedRmsNormOptions options;

  const char* name() const override { return "gated_rms_norm"; }

  void backward(Context& ctx) override {
    const Tensor dy_RF = grad_output(ctx).contiguous();
    dispatch_floating(dy_RF.dtype(), [&](auto tag) {
      with_law(options, [&](auto law) { add_gradients<decltype(tag)>(ctx, law, dy_RF); });
    });
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x_RF", saved.x_RF);
    visit("z_RF", saved.z_RF);
    visit("weight_F", saved.weight_F);
    visit("rstd_RN", saved.rstd_RN);
  }

 private:
  template <class T, class L>
  void add_gradients(Context& ctx, L law, const Tensor& dy_RF) const {
    using A = Accumulator<T>;
    const int64_t F = dy_RF.dim(-1), D = options.group_size, N = F / D;
    const Tensor dx_RF = ctx.empty(dy_RF.shape(), dy_RF.dtype());
    const Tensor dz_RF = ctx.empty(dy_RF.shape(), dy_RF.dtype());
    const Tensor dweight_F = column_sums<A>(ctx, dy_RF.numel() / F, F, [&](int64_t r, A* dweight) {
      for (int64_t n = 0; n < N; ++n) {
        const int64_t at = r * F + n * D;
        law.template backward<T>(D, {.x = saved.x_RF.data<T>() + at,
                                     .z = saved.z_RF.data<T>() + at,
                                     .weight = saved.weight_F.data<T>() + n * D,
                                     .dy = dy_RF.data<T>() + at,
                                     .rstd = saved.rstd_RN.data<A>()[r * N + n],
                                     .dx = dx_RF.data<T>() + at,
                                     .dz = dz_RF.data<T>() + at,
                                     .dweight = dweight + n * D});
      }
    });
    if (input(0)) input(0)->add(ctx, dx_RF);
    if (input(1)) input(1)->add(ctx, dz_RF);
    if (input(2)) input(2)->add(ctx, dweight_F);
  }
};

}  // namespace

Variable gated_rms_norm(Context& ctx, const Variable& x, const Variable& z, const Variable& weight,
                        const GatedRmsNormOptions& options) {
  GatedRmsNormOptions chosen = options;
  const int64_t F = x.dim(-1);
  if (chosen.group_size == 0) chosen.group_size = F;
  const int64_t D = chosen.group_size;
  LONGSHIP_CHECK(
      F > 0 && D > 0 && F % D == 0 && z.shape() == x.shape() && weight.shape() == Shape{F} &&
          z.dtype() == x.dtype() && weight.dtype() == x.dtype(),
      "gated_rms_norm of x {} {}, z {} {}, weight {} {} in groups of {}", dtype_name(x.dtype()),
      shape_string(x.shape()), dtype_name(z.dtype()), shape_string(z.shape()),
      dtype_name(weight.dtype()), shape_string(weight.shape()), D);
  const Tensor x_RF = x.value().contiguous(), z_RF = z.value().contiguous();
  const Tensor weight_F = weight.value().contiguous();
  const Tensor y_RF = ctx.empty(x.shape(), x.dtype());
  const int64_t N = F / D;
  const Tensor rstd_RN = ctx.empty({x_RF.numel() / D}, accumulator_dtype(x.dtype()));
  dispatch_floating(x.dtype(), [&](auto tag) {
    using T = decltype(tag);
    with_law(chosen, [&](auto law) {
      for_each_row(ctx, y_RF, F, [&](int64_t first) {
        for (int64_t n = 0; n < N; ++n) {
          const int64_t at = first + n * D;
          rstd_RN.data<Accumulator<T>>()[at / D] =
              law.forward(D, x_RF.data<T>() + at, z_RF.data<T>() + at, weight_F.data<T>() + n * D,
                          chosen.eps, y_RF.data<T>() + at);
        }
      });
    });
  });
  std::unique_ptr<GatedRmsNormNode> node;
  if (is_recording(ctx, {&x, &z, &weight})) {
    node = std::make_unique<GatedRmsNormNode>();
    node->saved = {x_RF, z_RF, weight_F, rstd_RN};
    node->options = chosen;
  }
  return record(ctx, "gated_rms_norm", y_RF, std::move(node), {&x, &z, &weight});
}

}  // namespace longship
