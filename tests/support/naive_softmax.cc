#include "tests/support/naive_softmax.h"

#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>

namespace longship::testing {
namespace {

// T queries, S keys, H query heads, K key/value heads, head sizes D and V.
struct Problem {
  int64_t T, S, H, K, D, V;
  const double *q, *k, *v;
  std::vector<int64_t> kv_head;
  double scale;
  std::function<bool(int64_t query, int64_t key)> sees;
  // Of one more key of each head, with value zero; empty = none.
  std::vector<double> sink;
};

double dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// Scores of query t of head h; -inf where it does not see.
std::vector<double> scores(const Problem& p, int64_t t, int64_t h) {
  const int64_t kv = p.kv_head[static_cast<size_t>(h)];
  std::vector<double> row(static_cast<size_t>(p.S), -std::numeric_limits<double>::infinity());
  for (int64_t s = 0; s < p.S; ++s)
    if (p.sees(t, s))
      row[static_cast<size_t>(s)] =
          p.scale * dot(p.q + (t * p.H + h) * p.D, p.k + (s * p.K + kv) * p.D, p.D);
  return row;
}

void attend(const Problem& p, double* o, double* lse) {
  for (int64_t t = 0; t < p.T; ++t)
    for (int64_t h = 0; h < p.H; ++h) {
      const std::vector<double> row = scores(p, t, h);
      double maximum = -std::numeric_limits<double>::infinity(), total = 0;
      for (double score : row) maximum = std::max(maximum, score);
      const bool has_sink = !p.sink.empty();
      if (has_sink) maximum = std::max(maximum, p.sink[static_cast<size_t>(h)]);
      for (double score : row)
        if (std::isfinite(score)) total += std::exp(score - maximum);
      if (has_sink) total += std::exp(p.sink[static_cast<size_t>(h)] - maximum);
      double& row_lse = lse[t * p.H + h];
      row_lse = total > 0 ? maximum + std::log(total) : maximum;
      for (int64_t d = 0; d < p.V; ++d) {
        double sum = 0;
        for (int64_t s = 0; s < p.S; ++s)
          if (std::isfinite(row[static_cast<size_t>(s)]))
            sum += std::exp(row[static_cast<size_t>(s)] - row_lse) *
                   p.v[(s * p.K + p.kv_head[static_cast<size_t>(h)]) * p.V + d];
        o[(t * p.H + h) * p.V + d] = sum;
      }
    }
}

// Adds to dq, dk, dv.
void differentiate(const Problem& p, const double* grad_o, const double* lse, const double* delta,
                   double* dq, double* dk, double* dv) {
  for (int64_t t = 0; t < p.T; ++t)
    for (int64_t h = 0; h < p.H; ++h) {
      const std::vector<double> row = scores(p, t, h);
      const double* do_row = grad_o + (t * p.H + h) * p.V;
      for (int64_t s = 0; s < p.S; ++s) {
        if (!std::isfinite(row[static_cast<size_t>(s)])) continue;
        const int64_t kv_row = s * p.K + p.kv_head[static_cast<size_t>(h)];
        const double probability = std::exp(row[static_cast<size_t>(s)] - lse[t * p.H + h]);
        const double grad_score =
            probability * (dot(do_row, p.v + kv_row * p.V, p.V) - delta[t * p.H + h]) * p.scale;
        for (int64_t d = 0; d < p.D; ++d) {
          dq[(t * p.H + h) * p.D + d] += grad_score * p.k[kv_row * p.D + d];
          dk[kv_row * p.D + d] += grad_score * p.q[(t * p.H + h) * p.D + d];
        }
        for (int64_t d = 0; d < p.V; ++d) dv[kv_row * p.V + d] += probability * do_row[d];
      }
    }
}

// The oracle's own memory, so that it does not count in measurements of a Context's.
Tensor scratch(const Shape& shape) {
  return Tensor::zeros(std::make_shared<Memory>(), shape, DType::kF64);
}

Tensor widen(const Tensor& tensor) {
  const Tensor wide = scratch(tensor.shape());
  wide.copy_from(tensor);
  return wide;
}

Tensor narrow(const Context& ctx, const Tensor& wide, DType dtype) {
  const Tensor tensor = ctx.empty(wide.shape(), dtype);
  tensor.copy_from(wide);
  return tensor;
}

std::function<bool(int64_t, int64_t)> sees_of(const BlockMask& mask, int64_t T, int64_t S) {
  std::vector<bool> seen(static_cast<size_t>(T * S), false);
  for (const MaskPiece& piece : mask.pieces)
    for (int64_t i = 0; i < piece.q_length; ++i)
      for (int64_t j = 0; j < piece.k_length; ++j) {
        const int64_t distance = piece.q_position + i - (piece.k_position + j);
        if ((!piece.causal || distance >= 0) &&
            (piece.window == 0 || std::abs(distance) < piece.window))
          seen[static_cast<size_t>((piece.q_begin + i) * S + piece.k_begin + j)] = true;
      }
  return [seen = std::move(seen), S](int64_t t, int64_t s) {
    return seen[static_cast<size_t>(t * S + s)];
  };
}

// q, k and v must outlive the result.
Problem problem_of(const Tensor& q_THD, const Tensor& k_SKD, const Tensor& v_SKV,
                   std::vector<int64_t> kv_head, double scale,
                   std::function<bool(int64_t, int64_t)> sees) {
  return {.T = q_THD.dim(0),
          .S = k_SKD.dim(0),
          .H = q_THD.dim(1),
          .K = k_SKD.dim(1),
          .D = q_THD.dim(2),
          .V = v_SKV.dim(2),
          .q = q_THD.data<double>(),
          .k = k_SKD.data<double>(),
          .v = v_SKV.data<double>(),
          .kv_head = std::move(kv_head),
          .scale = scale,
          .sees = std::move(sees),
          .sink = {}};
}

}  // namespace

SoftmaxBlockOutput NaiveSoftmax::forward(Context& ctx, const SoftmaxBlockInput& input,
                                         const BlockMask& mask, DType o_dtype) const {
  const Tensor q = widen(input.q_THD), k = widen(input.k_SKD), v = widen(input.v_SKV);
  const Problem problem =
      problem_of(q, k, v, input.kv_head, input.scale, sees_of(mask, q.dim(0), k.dim(0)));
  const Tensor o = scratch({problem.T, problem.H, problem.V}),
               lse = scratch({problem.T, problem.H});
  attend(problem, o.data<double>(), lse.data<double>());
  return {narrow(ctx, o, o_dtype), narrow(ctx, lse, accumulator_dtype(input.q_THD.dtype()))};
}

void NaiveSoftmax::backward(Context&, const SoftmaxBlockInput& input, const BlockMask& mask,
                            const SoftmaxBlockBackward& gradients) const {
  const Tensor q = widen(input.q_THD), k = widen(input.k_SKD), v = widen(input.v_SKV);
  const Problem problem =
      problem_of(q, k, v, input.kv_head, input.scale, sees_of(mask, q.dim(0), k.dim(0)));
  auto start = [](const Tensor& gradient, bool write) {
    return write ? scratch(gradient.shape()) : widen(gradient);
  };
  const Tensor dq = start(gradients.dq_THD, gradients.write_dq);
  const Tensor dk = start(gradients.dk_SKD, gradients.write_dkv);
  const Tensor dv = start(gradients.dv_SKV, gradients.write_dkv);
  differentiate(problem, widen(gradients.do_THV).data<double>(),
                widen(gradients.lse_TH).data<double>(), widen(gradients.delta_or_o).data<double>(),
                dq.data<double>(), dk.data<double>(), dv.data<double>());
  gradients.dq_THD.copy_from(dq);
  gradients.dk_SKD.copy_from(dk);
  gradients.dv_SKV.copy_from(dv);
}

NaiveAttention naive_attention(const Context& ctx, const Tensor& q_THD, const Tensor& k_TKD,
                               const Tensor& v_TKV, const Tensor& do_THV,
                               const std::vector<int64_t>& cu_seqlens,
                               const AttentionOptions& options) {
  std::vector<int64_t> first_token;  // of every token's document
  for (size_t d = 0; d + 1 < cu_seqlens.size(); ++d)
    for (int64_t t = cu_seqlens[d]; t < cu_seqlens[d + 1]; ++t)
      first_token.push_back(cu_seqlens[d]);
  std::vector<int64_t> kv_head;
  for (int64_t h = 0; h < q_THD.dim(1); ++h) kv_head.push_back(h * k_TKD.dim(1) / q_THD.dim(1));
  const Tensor q = widen(q_THD), k = widen(k_TKD), v = widen(v_TKV), grad_o = widen(do_THV);
  Problem problem =
      problem_of(q, k, v, std::move(kv_head), options.scale, [&](int64_t t, int64_t s) {
        if (options.anchor && s == 0) return true;
        const int64_t first = first_token[static_cast<size_t>(t)];
        if (first != first_token[static_cast<size_t>(s)] || (options.causal && s > t)) return false;
        const bool is_sink = s - first < options.num_sink_tokens;
        return options.window == 0 || is_sink || std::abs(t - s) < options.window;
      });
  const Tensor sink_H = options.sink_logit_H.value();
  if (sink_H.defined()) {
    const Tensor wide = widen(sink_H);
    problem.sink.assign(wide.data<double>(), wide.data<double>() + wide.numel());
  }
  NaiveAttention result = {.o_THV = ctx.empty(grad_o.shape(), DType::kF64),
                           .lse_TH = ctx.empty({problem.T, problem.H}, DType::kF64),
                           .dq_THD = ctx.zeros(q.shape(), DType::kF64),
                           .dk_TKD = ctx.zeros(k.shape(), DType::kF64),
                           .dv_TKV = ctx.zeros(v.shape(), DType::kF64),
                           .dsink_H = {}};
  attend(problem, result.o_THV.data<double>(), result.lse_TH.data<double>());
  std::vector<double> delta;
  for (int64_t row = 0; row < problem.T * problem.H; ++row)
    delta.push_back(dot(result.o_THV.data<double>() + row * problem.V,
                        grad_o.data<double>() + row * problem.V, problem.V));
  differentiate(problem, grad_o.data<double>(), result.lse_TH.data<double>(), delta.data(),
                result.dq_THD.data<double>(), result.dk_TKD.data<double>(),
                result.dv_TKV.data<double>());
  if (!problem.sink.empty()) {
    result.dsink_H = ctx.zeros({problem.H}, DType::kF64);
    for (int64_t row = 0; row < problem.T * problem.H; ++row) {
      const double score = problem.sink[static_cast<size_t>(row % problem.H)];
      result.dsink_H.data<double>()[row % problem.H] -=
          std::exp(score - result.lse_TH.data<double>()[row]) * delta[static_cast<size_t>(row)];
    }
  }
  return result;
}

}  // namespace longship::testing
