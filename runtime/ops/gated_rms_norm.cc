// R rows, F features in groups of D.
#include "runtime/ops/gated_rms_norm.h"

#include <cmath>
#include <vector>

#include "runtime/interleaved_sum.h"
#include "runtime/ops/column_sums.h"
#include "runtime/ops/for_each_row.h"
#include "runtime/vector_sigmoid.h"

namespace longship {
namespace {

// One group of a row: what is normed is `u`, what multiplies the normed is `tail`.
template <class T>
class NormGroup {
 public:
  using A = Accumulator<T>;

  NormGroup(const GatedRmsNormOptions& options, int64_t size)
      : options_(options),
        size_(size),
        gate_(static_cast<size_t>(size)),
        slope_(gate_),
        u_(gate_),
        scaled_(gate_) {}

  // Returns rsqrt(mean(u^2) + eps).
  A forward(const T* x, const T* z, const T* weight, T* y) {
    read(x, z);
    const A square =
        interleaved_sum<A>(size_, [&](int64_t d) { return u_[index(d)] * u_[index(d)]; });
    const A rstd = 1 / std::sqrt(square / static_cast<A>(size_) + static_cast<A>(options_.eps));
    const A* u = u_.data();
    const A* gate = gate_.data();
    if (options_.norm_before_gate) {
#pragma GCC ivdep
      for (int64_t d = 0; d < size_; ++d)
        y[d] = static_cast<T>(u[d] * rstd * static_cast<A>(weight[d]) * gate[d]);
    } else {
#pragma GCC ivdep
      for (int64_t d = 0; d < size_; ++d)
        y[d] = static_cast<T>(u[d] * rstd * static_cast<A>(weight[d]));
    }
    return rstd;
  }

  struct Gradients {
    T* dx;       // null: not wanted
    T* dz;       // null: not wanted
    A* dweight;  // added to
  };

  // With n = u rstd and m the gradient of n weight:  dweight += m n,
  // du = rstd (weight m - n mean(weight m n)).
  void backward(const T* x, const T* z, const T* weight, const T* dy, A rstd,
                const Gradients& into) {
    read(x, z);
    const A* u = u_.data();
    const A* gate = gate_.data();
    const A* slope = slope_.data();
    A* scaled = scaled_.data();  // weight m
    const bool first = options_.norm_before_gate;
#pragma GCC ivdep
    for (int64_t d = 0; d < size_; ++d) {
      const A m = static_cast<A>(dy[d]) * (first ? gate[d] : A{1});
      into.dweight[d] += m * (u[d] * rstd);
      scaled[d] = m * static_cast<A>(weight[d]);
    }
    const A dot =
        interleaved_sum<A>(size_, [&](int64_t d) { return scaled_[index(d)] * u_[index(d)]; });
    const A c = dot * rstd * rstd / static_cast<A>(size_);
    if (into.dx != nullptr) {
#pragma GCC ivdep
      for (int64_t d = 0; d < size_; ++d)
        into.dx[d] = static_cast<T>(rstd * (scaled[d] - c * u[d]) * (first ? A{1} : gate[d]));
    }
    if (into.dz == nullptr) return;
    if (first) {
#pragma GCC ivdep
      for (int64_t d = 0; d < size_; ++d)
        into.dz[d] = static_cast<T>(static_cast<A>(dy[d]) * u[d] * rstd *
                                    static_cast<A>(weight[d]) * slope[d]);
    } else {
#pragma GCC ivdep
      for (int64_t d = 0; d < size_; ++d)
        into.dz[d] =
            static_cast<T>(rstd * (scaled[d] - c * u[d]) * static_cast<A>(x[d]) * slope[d]);
    }
  }

 private:
  static size_t index(int64_t d) {
    return static_cast<size_t>(d);
  }

  // The gate, its slope and what is normed.
  void read(const T* x, const T* z) {
    A* gate = gate_.data();
    A* slope = slope_.data();
    A* u = u_.data();
    const bool silu = options_.activation == GateActivation::kSilu;
    const bool first = options_.norm_before_gate;
#pragma GCC ivdep
    for (int64_t d = 0; d < size_; ++d) {
      const A a = static_cast<A>(z[d]);
      const A s = vector_sigmoid(a);
      gate[d] = silu ? a * s : s;
      slope[d] = s * (silu ? 1 + a * (1 - s) : 1 - s);
      u[d] = static_cast<A>(x[d]) * (first ? A{1} : gate[d]);
    }
  }

  GatedRmsNormOptions options_;
  int64_t size_;
  std::vector<A> gate_, slope_, u_, scaled_;
};

struct GatedRmsNormNode final : Node {
  struct Saved {
    Tensor x_RF, z_RF, weight_F, rstd_RN;
  } saved;
  GatedRmsNormOptions options;

  const char* name() const override { return "gated_rms_norm"; }

  void backward(Context& ctx) override {
    const Tensor dy_RF = grad_output(ctx).contiguous();
    dispatch_floating(dy_RF.dtype(), [&](auto tag) { add_gradients<decltype(tag)>(ctx, dy_RF); });
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("x_RF", saved.x_RF);
    visit("z_RF", saved.z_RF);
    visit("weight_F", saved.weight_F);
    visit("rstd_RN", saved.rstd_RN);
  }

 private:
  template <class T>
  void add_gradients(Context& ctx, const Tensor& dy_RF) const {
    using A = Accumulator<T>;
    const int64_t F = dy_RF.dim(-1), D = options.group_size, N = F / D;
    auto gradient = [&](size_t i) {
      return input(i) ? ctx.empty(dy_RF.shape(), dy_RF.dtype()) : Tensor();
    };
    const Tensor dx_RF = gradient(0), dz_RF = gradient(1);
    auto place = [](const Tensor& tensor, int64_t at) {
      return tensor.defined() ? tensor.data<T>() + at : nullptr;
    };
    const Tensor dweight_F = column_sums<A>(ctx, dy_RF.numel() / F, F, [&](int64_t r, A* dweight) {
      NormGroup<T> group(options, D);
      for (int64_t n = 0; n < N; ++n) {
        const int64_t at = r * F + n * D;
        group.backward(saved.x_RF.data<T>() + at, saved.z_RF.data<T>() + at,
                       saved.weight_F.data<T>() + n * D, dy_RF.data<T>() + at,
                       saved.rstd_RN.data<A>()[r * N + n],
                       {place(dx_RF, at), place(dz_RF, at), dweight + n * D});
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
    for_each_row(ctx, y_RF, F, [&](int64_t first) {
      NormGroup<T> group(chosen, D);
      for (int64_t n = 0; n < N; ++n) {
        const int64_t at = first + n * D;
        rstd_RN.data<Accumulator<T>>()[at / D] =
            group.forward(x_RF.data<T>() + at, z_RF.data<T>() + at, weight_F.data<T>() + n * D,
                          y_RF.data<T>() + at);
      }
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
