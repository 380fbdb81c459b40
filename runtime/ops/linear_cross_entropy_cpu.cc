#include "runtime/ops/linear_cross_entropy_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "runtime/ops/matmul.h"
#include "runtime/parallel_for.h"
#include "runtime/vector_exp.h"

namespace longship {
namespace {

// T tokens, E hidden size, V vocabulary; R rows of logits at a time.

// Rows are padded to a multiple of this, so that batches with other numbers of loss tokens still
// meet matrix shapes that oneDNN has compiled.
constexpr int64_t kRowStep = 64;

struct Softmax {
  double max = 0;
  double sum = 0;  // of exp(logit - max)

  double log_sum_exp() const { return max + std::log(sum); }
};

// Replaces the logits of a row by exp(logit - max).
template <class T>
Softmax exponentiate(T* row, int64_t V) {
  constexpr int64_t kBlock = 2048;
  T max = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : max)
  for (int64_t v = 0; v < V; ++v) max = row[v] > max ? row[v] : max;
  double sum = 0;
  for (int64_t begin = 0; begin < V; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, V);
    T part = 0;
#pragma omp simd reduction(+ : part)
    for (int64_t v = begin; v < end; ++v) {
      const T value = vector_exp(row[v] - max);
      row[v] = value;
      part += value;
    }
    sum += static_cast<double>(part);
  }
  return {static_cast<double>(max), sum};
}

int32_t checked_target(const int32_t* targets, int64_t token, int64_t V) {
  const int32_t target = targets[token];
  if (target < 0 || target >= V) [[unlikely]]
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("target of token {} is outside the vocabulary", token),
                 .expected = fmt::format("an id in [0, {})", V),
                 .found = std::to_string(target),
                 .next = "prepare the token file with the vocabulary of this model"});
  return target;
}

// Hidden states of some tokens, in ascending order: a view where they are neighbours and need no
// padding, else a copy padded with zeros.
struct Rows {
  std::span<const int64_t> tokens;
  bool is_view = false;
  Tensor h_RE;

  Rows(Context& ctx, const Tensor& h_TE, std::span<const int64_t> chosen, int64_t chunk_tokens)
      : tokens(chosen) {
    const auto count = static_cast<int64_t>(tokens.size());
    const int64_t padded = (count + kRowStep - 1) / kRowStep * kRowStep;
    const int64_t num_rows = std::max(count, std::min(padded, chunk_tokens));
    is_view = num_rows == count && tokens.back() - tokens.front() + 1 == count;
    if (is_view) {
      h_RE = h_TE.slice(0, tokens.front(), num_rows);
      return;
    }
    h_RE = ctx.empty({num_rows, h_TE.dim(1)}, h_TE.dtype());
    const int64_t row_bytes = h_TE.dim(1) * dtype_size(h_TE.dtype());
    for (int64_t row = 0; row < count; ++row)
      std::memcpy(h_RE.raw() + row * row_bytes, h_TE.raw() + tokens[row] * row_bytes,
                  static_cast<size_t>(row_bytes));
    h_RE.slice(0, count, num_rows - count).fill_zero();
  }
};

// Turns a row of exp(logit - max) into d loss / d logits in G, which may be the same memory.
template <class T, class G>
void write_grad_logits(const T* exponentials, const Softmax& softmax, T weight, int32_t target,
                       int64_t V, G* grad) {
  const T scale = static_cast<T>(static_cast<double>(weight) / softmax.sum);
  const T at_target = exponentials[target] * scale - weight;
#pragma GCC ivdep
  for (int64_t v = 0; v < V; ++v) grad[v] = static_cast<G>(exponentials[v] * scale);
  grad[target] = static_cast<G>(at_target);
}

// The losses of the given tokens of one chunk; adds their part to the gradients.
template <class T, class H>
void process_chunk(Context& ctx, const LinearCrossEntropy& op, const Rows& rows,
                   const LossGradients& gradients, double* losses) {
  const Tensor& head_VE = op.head_VE;
  const int64_t V = head_VE.dim(0), count = static_cast<int64_t>(rows.tokens.size());
  const int64_t num_rows = rows.h_RE.dim(0);
  const Tensor logits_RV = ctx.empty({num_rows, V}, DTypeOf<T>::value);
  matmul(ctx, rows.h_RE, head_VE.transpose(0, 1), logits_RV);
  const bool backward = gradients.dh_TE.defined() || gradients.dhead_VE.defined();
  // In bf16 the gradient of the logits is rounded, as that of every activation.
  Tensor dlogits_RV;
  if (backward)
    dlogits_RV = std::is_same_v<T, H> ? logits_RV : ctx.empty(logits_RV.shape(), head_VE.dtype());
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(V, 1));
  parallel_for(ctx, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* logits = logits_RV.data<T>() + row * V;
      const int64_t token = rows.tokens[row];
      const int32_t target = checked_target(op.targets_T.data<int32_t>(), token, V);
      const double target_logit = logits[target];
      const Softmax softmax = exponentiate(logits, V);
      losses[row] = softmax.log_sum_exp() - target_logit;
      if (backward)
        write_grad_logits(logits, softmax, static_cast<T>(op.weights_T.data<float>()[token]),
                          target, V, dlogits_RV.data<H>() + row * V);
    }
  });
  if (!backward) return;
  dlogits_RV.slice(0, count, num_rows - count).fill_zero();
  if (gradients.dhead_VE.defined())
    matmul(ctx, dlogits_RV.transpose(0, 1), rows.h_RE, gradients.dhead_VE, true);
  if (!gradients.dh_TE.defined()) return;
  if (rows.is_view) {
    matmul(ctx, dlogits_RV, head_VE, gradients.dh_TE.slice(0, rows.tokens.front(), num_rows));
    return;
  }
  const Tensor dh_RE = ctx.empty(rows.h_RE.shape(), rows.h_RE.dtype());
  matmul(ctx, dlogits_RV, head_VE, dh_RE);
  const int64_t row_bytes = dh_RE.dim(1) * dtype_size(dh_RE.dtype());
  for (int64_t row = 0; row < count; ++row)
    std::memcpy(gradients.dh_TE.raw() + rows.tokens[row] * row_bytes, dh_RE.raw() + row * row_bytes,
                static_cast<size_t>(row_bytes));
}

// Fills losses[i] with the loss of tokens[i].
void process_tokens(Context& ctx, const LinearCrossEntropy& op, std::span<const int64_t> tokens,
                    const LossGradients& gradients, std::vector<double>& losses) {
  losses.resize(tokens.size());
  dispatch_floating(op.h_TE.dtype(), [&](auto tag) {
    using H = decltype(tag);
    const auto chunk_tokens = static_cast<size_t>(op.chunk_tokens);
    for (size_t begin = 0; begin < tokens.size(); begin += chunk_tokens) {
      const size_t count = std::min(chunk_tokens, tokens.size() - begin);
      const Rows rows(ctx, op.h_TE, tokens.subspan(begin, count), op.chunk_tokens);
      process_chunk<Accumulator<H>, H>(ctx, op, rows, gradients, losses.data() + begin);
    }
  });
}

}  // namespace

Tensor linear_cross_entropy_cpu(Context& ctx, const LinearCrossEntropy& op,
                                const LossGradients& gradients) {
  const float* weights = op.weights_T.data<float>();
  std::vector<int64_t> tokens;
  for (int64_t token = 0; token < op.weights_T.numel(); ++token)
    if (weights[token] != 0.0f) tokens.push_back(token);
  if (gradients.dh_TE.defined()) gradients.dh_TE.fill_zero();
  if (gradients.dhead_VE.defined()) gradients.dhead_VE.fill_zero();
  std::vector<double> losses;
  process_tokens(ctx, op, tokens, gradients, losses);
  double sum = 0;
  for (size_t i = 0; i < tokens.size(); ++i) sum += weights[tokens[i]] * losses[i];

  const Tensor loss = ctx.empty({1}, accumulator_dtype(op.h_TE.dtype()));
  dispatch_floating(loss.dtype(), [&](auto tag) {
    using T = decltype(tag);
    *loss.data<T>() = static_cast<T>(static_cast<Accumulator<T>>(sum));
  });
  return loss;
}

Tensor token_cross_entropy_cpu(Context& ctx, const LinearCrossEntropy& op) {
  std::vector<int64_t> tokens(static_cast<size_t>(op.h_TE.dim(0)));
  std::iota(tokens.begin(), tokens.end(), int64_t{0});
  std::vector<double> losses;
  process_tokens(ctx, op, tokens, {}, losses);
  const Tensor losses_T = ctx.empty({op.h_TE.dim(0)}, DType::kF32);
  std::transform(losses.begin(), losses.end(), losses_T.data<float>(),
                 [](double loss) { return static_cast<float>(loss); });
  return losses_T;
}

void scale_gradient_cpu(const Context& ctx, const Tensor& gradient, const Tensor& factor_1) {
  const double factor = dispatch_floating(factor_1.dtype(), [&](auto tag) {
    return static_cast<double>(*factor_1.data<decltype(tag)>());
  });
  dispatch_floating(gradient.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    T* data = gradient.data<T>();
    const A scale = static_cast<A>(factor);
    parallel_for(ctx, gradient.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        data[i] = static_cast<T>(static_cast<A>(data[i]) * scale);
    });
  });
}

}  // namespace longship
