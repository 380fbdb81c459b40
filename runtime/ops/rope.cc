// T tokens, H heads, D head size, R rotated features (cos_TR and sin_TR hold R/2 pairs).
#include "runtime/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
#include "runtime/ops/rope_cuda.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

// A frequency in turns per position as an unevaluated sum of two doubles, so that multiplying it
// by a position of up to 2^53 leaves an exact fraction of a turn.
struct Frequency {
  double high;
  double low;
};

std::vector<Frequency> frequencies(int64_t rotary_dim, double theta) {
  std::vector<Frequency> result;
  for (int64_t i = 0; i < rotary_dim / 2; ++i) {
    const long double exponent = -2.0L * static_cast<long double>(i) / rotary_dim;
    const long double turns = std::pow(static_cast<long double>(theta), exponent) /
                              (2.0L * std::numbers::pi_v<long double>);
    const double high = static_cast<double>(turns);
    result.push_back({high, static_cast<double>(turns - high)});
  }
  return result;
}

// position * frequency less whole turns: in [-1/2, 1/2] to within 1e-16.
inline double fraction_of_turn(double position, const Frequency& frequency) {
  const double product = position * frequency.high;
  const double rounding = std::fma(position, frequency.high, -product);
  return (product - std::nearbyint(product)) + (rounding + position * frequency.low);
}

struct CosSin {
  double cos;
  double sin;
};

// Of an angle in turns, as plain arithmetic that vectorises: the nearest quarter turn is split off
// exactly, the rest goes into the polynomials of fdlibm (Sun Microsystems 1993), error below 1e-15.
inline CosSin cos_sin(double turns) {
  const double quarter = std::nearbyint(4 * turns);
  const double r = 2.0 * std::numbers::pi * (turns - quarter / 4);
  const double z = r * r;
  double c = -1.13596475577881948265e-11;
  c = c * z + 2.08757232129817482790e-09;
  c = c * z - 2.75573143513906633035e-07;
  c = c * z + 2.48015872894767294178e-05;
  c = c * z - 1.38888888888741095749e-03;
  c = c * z + 4.16666666666666019037e-02;
  c = c * z * z - 0.5 * z + 1.0;
  double s = 1.58969099521155010221e-10;
  s = s * z - 2.50507602534068634195e-08;
  s = s * z + 2.75573137070700676789e-06;
  s = s * z - 1.98412698298579493134e-04;
  s = s * z + 8.33333333332248946124e-03;
  s = s * z - 1.66666666666666324348e-01;
  s = s * z * r + r;
  const int32_t quadrant = static_cast<int32_t>(quarter);
  const double along = quadrant & 1 ? s : c;
  const double across = quadrant & 1 ? c : s;
  return {(quadrant + 1) & 2 ? -along : along, quadrant & 2 ? -across : across};
}

// Turns every pair of the features from `first` on by direction * angle.
struct Rotation {
  RopeAngles angles;
  int64_t first = 0;
  int direction = 1;  // or -1
};

void rotate_cpu(const Context& ctx, const Tensor& x_THD, const Rotation& rotation,
                const Tensor& y_THD) {
  const int64_t T = x_THD.dim(0), H = x_THD.dim(1), D = x_THD.dim(2);
  const RopeAngles& angles = rotation.angles;
  const int64_t num_pairs = angles.cos_TR.dim(1);
  dispatch_floating(x_THD.dtype(), [&](auto tag) {
    using E = decltype(tag);
    using A = Accumulator<E>;
    const A sign = static_cast<A>(rotation.direction);
    const int64_t grain = std::max<int64_t>(1, (1 << 13) / std::max<int64_t>(1, H * D));
    parallel_for(ctx, T, grain, [&, first = rotation.first](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const A* cos = angles.cos_TR.data<A>() + t * num_pairs;
        const A* sin = angles.sin_TR.data<A>() + t * num_pairs;
        for (int64_t h = 0; h < H; ++h) {
          const int64_t head = (t * H + h) * D;
          const E* x = x_THD.data<E>() + head + first;
          E* y = y_THD.data<E>() + head + first;
          std::copy(x - first, x, y - first);
#pragma GCC ivdep
          for (int64_t i = 0; i < num_pairs; ++i) {
            const A a = static_cast<A>(x[i]);
            const A b = static_cast<A>(x[i + num_pairs]);
            const A s = sign * sin[i];
            y[i] = static_cast<E>(a * cos[i] - b * s);
            y[i + num_pairs] = static_cast<E>(b * cos[i] + a * s);
          }
          std::copy(x + 2 * num_pairs, x + D - first, y + 2 * num_pairs);
        }
      }
    });
  });
}

void rotate_cuda(const Context& ctx, const Tensor& x_THD, const Rotation& rotation,
                 const Tensor& y_THD) {
  const RopeAngles& angles = rotation.angles;
  rope_cuda({.dtype = x_THD.dtype(),
             .num_tokens = x_THD.dim(0),
             .num_heads = x_THD.dim(1),
             .head_size = x_THD.dim(2),
             .first = rotation.first,
             .num_pairs = angles.cos_TR.dim(1),
             .direction = static_cast<float>(rotation.direction),
             .x_THD = x_THD.address(),
             .y_THD = y_THD.address(),
             .cos_TR = angles.cos_TR.device_data<float>(),
             .sin_TR = angles.sin_TR.device_data<float>()},
            compute_stream(ctx));
}

Tensor rotate(const Context& ctx, const Tensor& x_THD, const Rotation& rotation) {
  const Tensor y_THD = ctx.empty(x_THD.shape(), x_THD.dtype());
  require_one_device("rope", {&x_THD, &rotation.angles.cos_TR, &rotation.angles.sin_TR, &y_THD});
  dispatch_device(
      y_THD, [&] { rotate_cpu(ctx, x_THD, rotation, y_THD); },
      [&] { rotate_cuda(ctx, x_THD, rotation, y_THD); });
  return y_THD;
}

struct RopeNode final : Node {
  struct Saved {
    RopeAngles angles;
  } saved;
  int64_t first = 0;

  const char* name() const override { return "rope"; }

  void backward(Context& ctx) override {
    input(0)->add(ctx, rotate(ctx, grad_output(ctx).contiguous(), {saved.angles, first, -1}));
  }

  void visit_saved(const SavedVisitor& visit) override {
    visit("cos_TR", saved.angles.cos_TR);
    visit("sin_TR", saved.angles.sin_TR);
  }
};

void angles_cpu(const Context& ctx, const Tensor& positions_T, const std::vector<Frequency>& table,
                const RopeAngles& angles) {
  const int64_t num_pairs = angles.cos_TR.dim(1);
  const Frequency* frequency = table.data();
  const int64_t* positions = positions_T.data<int64_t>();
  dispatch_floating(angles.cos_TR.dtype(), [&](auto tag) {
    using A = Accumulator<decltype(tag)>;
    A* cos = angles.cos_TR.data<A>();
    A* sin = angles.sin_TR.data<A>();
    parallel_for(ctx, positions_T.numel(), 64, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const double position = static_cast<double>(positions[t]);
#pragma GCC ivdep
        for (int64_t i = 0; i < num_pairs; ++i) {
          const CosSin turned = cos_sin(fraction_of_turn(position, frequency[i]));
          cos[t * num_pairs + i] = static_cast<A>(turned.cos);
          sin[t * num_pairs + i] = static_cast<A>(turned.sin);
        }
      }
    });
  });
}

void angles_cuda(const Context& ctx, const Tensor& positions_T, const std::vector<Frequency>& table,
                 const RopeAngles& angles) {
  static_assert(sizeof(Frequency) == 2 * sizeof(double));
  const int64_t num_pairs = angles.cos_TR.dim(1);
  const Tensor frequency_R2 =
      upload(ctx, Tensor::from<double>(positions_T.memory(), {num_pairs, 2},
                                       {&table.data()->high, static_cast<size_t>(2 * num_pairs)}));
  const Tensor uploaded_T = upload(ctx, positions_T);
  rope_angles_cuda({.num_tokens = positions_T.numel(),
                    .num_pairs = num_pairs,
                    .positions_T = uploaded_T.device_data<int64_t>(),
                    .frequency_R2 = frequency_R2.device_data<double>(),
                    .cos_TR = angles.cos_TR.device_data<float>(),
                    .sin_TR = angles.sin_TR.device_data<float>()},
                   compute_stream(ctx));
}

}  // namespace

RopeAngles rope_angles(const Context& ctx, const Tensor& positions_T, int64_t rotary_dim,
                       double theta, DType dtype) {
  LONGSHIP_CHECK(rotary_dim > 0 && rotary_dim % 2 == 0, "rotary_dim {}", rotary_dim);
  LONGSHIP_CHECK(theta > 0, "theta {}", theta);
  LONGSHIP_CHECK(positions_T.rank() == 1 && positions_T.device().kind == DeviceKind::kCpu,
                 "positions {} on {}", shape_string(positions_T.shape()),
                 device_name(positions_T.device()));
  const std::vector<Frequency> table = frequencies(rotary_dim, theta);
  const Tensor packed_T = positions_T.contiguous();
  const Shape shape = {packed_T.numel(), rotary_dim / 2};
  const RopeAngles angles{ctx.empty(shape, dtype), ctx.empty(shape, dtype)};
  dispatch_device(
      angles.cos_TR, [&] { angles_cpu(ctx, packed_T, table, angles); },
      [&] { angles_cuda(ctx, packed_T, table, angles); });
  return angles;
}

Variable rope(Context& ctx, const Variable& x_THD, const RopeAngles& angles, int64_t first) {
  LONGSHIP_CHECK(x_THD.value().rank() == 3 && angles.cos_TR.rank() == 2 &&
                     angles.cos_TR.shape() == angles.sin_TR.shape() &&
                     angles.cos_TR.dim(0) == x_THD.dim(0) && first >= 0 &&
                     first + 2 * angles.cos_TR.dim(1) <= x_THD.dim(2) &&
                     angles.cos_TR.dtype() == accumulator_dtype(x_THD.dtype()),
                 "rope of {} {} from feature {} by {} angles {}", dtype_name(x_THD.dtype()),
                 shape_string(x_THD.shape()), first, dtype_name(angles.cos_TR.dtype()),
                 shape_string(angles.cos_TR.shape()));
  std::unique_ptr<RopeNode> node;
  if (is_recording(ctx, {&x_THD})) {
    node = std::make_unique<RopeNode>();
    node->saved = {angles};
    node->first = first;
  }
  return record(ctx, "rope", rotate(ctx, x_THD.value().contiguous(), {angles, first, 1}),
                std::move(node), {&x_THD});
}

}  // namespace longship
