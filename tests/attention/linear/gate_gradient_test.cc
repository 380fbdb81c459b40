#include "attention/linear/gate_gradient.h"

#include <gtest/gtest.h>

#include "attention/linear/decay_kernel.h"
#include "attention/linear/delta_kernel.h"
#include "runtime/random.h"
#include "tests/support/gradient_check.h"
#include "tests/support/linear_kernel_check.h"

namespace longship {
namespace {

using testing::Gate;
using testing::LinearCase;
using testing::relative_rms;

constexpr int64_t kRows = 37, kKeys = 35;

// A matrix in memory of its own.
template <class A>
class Owned {
 public:
  Owned(const Context& ctx, int64_t rows, int64_t columns)
      : memory_(ctx.zeros({PanelMatrix<A>::size(rows, columns)}, DTypeOf<A>::value)),
        matrix_(memory_.data<A>(), rows, columns) {}
  static Owned random(const Context& ctx, int64_t rows, int64_t columns, uint64_t seed) {
    Owned x(ctx, rows, columns);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        x.at(r, c) =
            static_cast<A>(normal(seed, static_cast<uint64_t>(r), static_cast<uint64_t>(c)));
    return x;
  }
  A& at(int64_t r, int64_t c) const { return matrix_.at(r, c); }
  operator const PanelMatrix<A>&() const { return matrix_; }

 private:
  Tensor memory_;
  PanelMatrix<A> matrix_;
};

// The gradient as a tensor [c] or [c, K].
template <class A>
struct Summed {
  Tensor workspace;
  GateKind kind;
  GateGradient<A> gradient;

  Summed(const Context& ctx, GateKind of)
      : workspace(ctx.empty({GateGradient<A>::workspace_size(kKeys)}, DTypeOf<A>::value)),
        kind(of),
        gradient(of, kRows, kKeys, workspace.data<A>()) {}
  Tensor result(const Context& ctx) const {
    const int64_t width = kind == GateKind::kScalar ? 1 : kKeys;
    const Tensor to = ctx.zeros({kRows, width}, DTypeOf<A>::value);
    gradient.add_to({to, 0, width});
    return to;
  }
};

// term(i, r, d) summed over the pairs i < t <= r, where -1 stands for the chunk's start and kRows
// for its end.
template <class Term>
Tensor over_pairs(const Context& ctx, GateKind kind, int64_t first, int64_t last, Term&& term) {
  const int64_t width = kind == GateKind::kScalar ? 1 : kKeys;
  const Tensor sums = ctx.zeros({kRows, width}, DType::kF64);
  for (int64_t t = 0; t < kRows; ++t)
    for (int64_t i = first; i < t; ++i)
      for (int64_t r = t; r < last; ++r)
        for (int64_t d = 0; d < kKeys; ++d)
          sums.data<double>()[t * width + d % width] += term(i, r, d);
  return sums;
}

template <class A>
void expect_sums_over_pairs(GateKind kind, double bound) {
  const Context ctx;
  const auto x = Owned<A>::random(ctx, kRows, kKeys, 1),
             dx = Owned<A>::random(ctx, kRows, kKeys, 2);

  const Summed<A> from_start(ctx, kind), to_end(ctx, kind), through(ctx, kind), between(ctx, kind);
  from_start.gradient.add_from_start(x, dx);
  EXPECT_LE(relative_rms(from_start.result(ctx),
                         over_pairs(ctx, kind, -1, kRows,
                                    [&](int64_t i, int64_t r, int64_t d) {
                                      return i < 0 ? double(x.at(r, d)) * double(dx.at(r, d)) : 0;
                                    })),
            bound);
  to_end.gradient.add_to_end(x, dx);
  EXPECT_LE(relative_rms(to_end.result(ctx), over_pairs(ctx, kind, 0, kRows + 1,
                                                        [&](int64_t i, int64_t r, int64_t d) {
                                                          return r == kRows
                                                                     ? double(x.at(i, d)) *
                                                                           double(dx.at(i, d))
                                                                     : 0;
                                                        })),
            bound);
  const auto products = Owned<A>::random(ctx, 1, kKeys, 3);
  std::vector<A> products_K;
  for (int64_t d = 0; d < kKeys; ++d) products_K.push_back(products.at(0, d));
  through.gradient.add_through(products_K.data());
  EXPECT_LE(relative_rms(through.result(ctx), over_pairs(ctx, kind, -1, kRows + 1,
                                                         [&](int64_t i, int64_t r, int64_t d) {
                                                           return i < 0 && r == kRows
                                                                      ? double(products.at(0, d))
                                                                      : 0;
                                                         })),
            bound);

  // Scores of x and y without decay, whose gradients are dscores.
  const auto y = Owned<A>::random(ctx, kRows, kKeys, 4);
  const Owned<A> scores(ctx, kRows, kRows), dx_of_scores(ctx, kRows, kKeys),
      dy_of_scores(ctx, kRows, kKeys);
  const auto dscores = Owned<A>::random(ctx, kRows, kRows, 5);
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t i = 0; i < kRows; ++i) {
      if (i >= r) dscores.at(r, i) = 0;
      double score = 0;
      for (int64_t d = 0; d < kKeys; ++d) {
        score += double(x.at(r, d)) * double(y.at(i, d));
        dx_of_scores.at(r, d) += dscores.at(r, i) * y.at(i, d);
        dy_of_scores.at(i, d) += dscores.at(r, i) * x.at(r, d);
      }
      scores.at(r, i) = static_cast<A>(score);
    }
  between.gradient.add_scores(scores, dscores);
  between.gradient.add_between(x, dx_of_scores, y, dy_of_scores);
  EXPECT_LE(relative_rms(between.result(ctx), over_pairs(ctx, kind, 0, kRows,
                                                         [&](int64_t i, int64_t r, int64_t d) {
                                                           return double(dscores.at(r, i)) *
                                                                  double(x.at(r, d)) *
                                                                  double(y.at(i, d));
                                                         })),
            bound);
}

TEST(GateGradient, SumsThePairsOfRowsThatAGateLiesBetween) {
  for (GateKind kind : {GateKind::kScalar, GateKind::kVector}) {
    expect_sums_over_pairs<double>(kind, 1e-14);
    expect_sums_over_pairs<float>(kind, 1e-6);
  }
}

// Differences of sums over all rows have the digits of the largest gradient only.
TEST(GateGradient, KeepsItsDigitsFarBeforeTheTokensWithLoss) {
  constexpr int64_t kLength = 200, kWithLoss = 3, kH = 2;
  const DecayKernel decay;
  const DeltaKernel delta;
  for (bool has_beta : {false, true})
    for (Gate gate : {Gate::kScalar, Gate::kVector}) {
      const testing::LinearKernelCheck check(
          has_beta ? static_cast<const LinearKernel&>(delta) : decay, has_beta);
      auto dgate = [&](DType dtype) {
        Context ctx;
        LinearCase c =
            check.make_case(ctx, {kLength}, {.H = kH, .gate = gate, .strongest_gate = -0.2}, dtype);
        c.states_NHKV = ctx.zeros(c.states_NHKV.shape(), dtype);
        c.dstates_NHKV = ctx.zeros(c.dstates_NHKV.shape(), dtype);
        c.do_THV.slice(0, 0, kLength - kWithLoss)
            .copy_from(ctx.zeros({kLength - kWithLoss, kH, c.do_THV.dim(2)}, dtype));
        return check.run(ctx, c).gradients.dgate;
      };
      const Tensor found = dgate(DType::kF32), expected = dgate(DType::kF64);
      EXPECT_GT(relative_rms(expected.slice(0, 4, 1), expected.slice(0, kLength - 1, 1)), 0);
      EXPECT_EQ(relative_rms(found.slice(0, 0, 1), expected.slice(0, 0, 1)), 0);
      // Vector gates in the second half of the last chunk are summed from the end.
      for (int64_t t = 1; t < (gate == Gate::kScalar ? kLength : kLength - 4); ++t)
        EXPECT_LE(relative_rms(found.slice(0, t, 1), expected.slice(0, t, 1)), 3e-4)
            << "token " << t << ", delta rule " << has_beta << ", gate " << static_cast<int>(gate);
    }
}

}  // namespace
}  // namespace longship
