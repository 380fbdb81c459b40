#include "attention/linear/gate_gradient.h"

namespace longship {
namespace {

// sum += sign x dx, for the lanes of a panel's row; a product of floats is exact.
template <class A>
void add_products(double sign, const A* x, const A* dx, double* __restrict sum) {
  for (int64_t i = 0; i < kPanelLanes<A>; ++i)
    sum[i] += sign * static_cast<double>(x[i]) * static_cast<double>(dx[i]);
}

}  // namespace

template <class A>
int64_t GateGradient<A>::workspace_size(int64_t key_size) {
  return Matrix::size(LinearProblem::kChunkSize, key_size) *
         static_cast<int64_t>(sizeof(double) / sizeof(A));
}

template <class A>
GateGradient<A>::GateGradient(GateKind kind, int64_t length, int64_t key_size, A* workspace)
    : is_scalar_(kind == GateKind::kScalar),
      length_(is_scalar_ || kind == GateKind::kVector ? length : 0),
      key_size_(key_size),
      dg_(reinterpret_cast<double*>(workspace)) {
  std::fill_n(dg_, Matrix::size(length_, is_scalar_ ? 1 : key_size), 0.0);
}

template <class A>
void GateGradient<A>::add(int64_t p, int64_t t, const Lanes& sum) const {
  double* to = lanes(p, t);
  for (int64_t i = 0; i < W; ++i) to[i] += sum[i];
}

template <class A>
void GateGradient<A>::add_from_start(const Matrix& x, const Matrix& dx) const {
  for (int64_t p = 0; p < x.num_panels(); ++p) {
    Lanes sum = {};
    for (int64_t t = length_ - 1; t >= 0; --t) {
      add_products<A>(1, x.row(p, t), dx.row(p, t), sum);
      add(p, t, sum);
    }
  }
}

template <class A>
void GateGradient<A>::add_to_end(const Matrix& x, const Matrix& dx) const {
  for (int64_t p = 0; p < x.num_panels(); ++p) {
    Lanes sum = {};
    for (int64_t t = 1; t < length_; ++t) {
      add_products<A>(1, x.row(p, t - 1), dx.row(p, t - 1), sum);
      add(p, t, sum);
    }
  }
}

template <class A>
void GateGradient<A>::add_scores(const Matrix& scores, const Matrix& dscores) const {
  if (!is_scalar_) return;
  for (int64_t p = 0; p < dscores.num_panels(); ++p) {
    Lanes sum = {};
    for (int64_t t = length_ - 1; t > p * W; --t) {
      add_products<A>(1, scores.row(p, t), dscores.row(p, t), sum);
      double* to = lanes(0, t);
      for (int64_t i = 0; i < W; ++i) to[i] += p * W + i < t ? sum[i] : 0;
    }
  }
}

template <class A>
void GateGradient<A>::add_between(const Matrix& left, const Matrix& dleft, const Matrix& right,
                                  const Matrix& dright) const {
  if (is_scalar_) return;
  const int64_t middle = length_ / 2;
  for (int64_t p = 0; p < left.num_panels(); ++p) {
    auto add_row = [&](double sign, int64_t r, Lanes& sum) {
      add_products<A>(sign, left.row(p, r), dleft.row(p, r), sum);
      add_products<A>(-sign, right.row(p, r), dright.row(p, r), sum);
    };
    Lanes later = {}, earlier = {};
    for (int64_t t = length_ - 1; t >= middle; --t) {
      add_row(1, t, later);
      add(p, t, later);
    }
    for (int64_t t = 1; t < middle; ++t) {
      add_row(-1, t - 1, earlier);
      add(p, t, earlier);
    }
  }
}

template <class A>
void GateGradient<A>::add_through(const A* products_K) const {
  for (int64_t p = 0; p * W < key_size_; ++p) {
    Lanes products = {};
    for (int64_t i = 0; i < std::min(W, key_size_ - p * W); ++i)
      products[i] = products_K[p * W + i];
    for (int64_t t = 0; t < length_; ++t) add(p, t, products);
  }
}

template <class A>
void GateGradient<A>::add_to(const TensorRows& rows) const {
  A* to = rows.tensor.template data<A>() + rows.first;
  for (int64_t t = 0; t < length_; ++t, to += rows.step) {
    if (is_scalar_) {
      double sum = 0;
      for (int64_t i = 0; i < W; ++i) sum += lanes(0, t)[i];
      *to += static_cast<A>(sum);
      continue;
    }
    for (int64_t p = 0; p * W < key_size_; ++p) {
      const double* from = lanes(p, t);
      const int64_t width = std::min(W, key_size_ - p * W);
#pragma GCC ivdep
      for (int64_t i = 0; i < width; ++i) to[p * W + i] += static_cast<A>(from[i]);
    }
  }
}

template class GateGradient<float>;
template class GateGradient<double>;

}  // namespace longship
