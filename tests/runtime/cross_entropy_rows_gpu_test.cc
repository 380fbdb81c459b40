// The kernel of the loss by itself, with poisoned outputs, against fp64.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/ops/cross_entropy_rows_cuda.h"
#include "runtime/random.h"
#include "tests/support/gpu_check.h"

namespace longship {
namespace {

using testing::on_host;
using testing::poisoned_gpu;
using testing::random_tensor;

struct Rows {
  int64_t num_rows, vocab_size;

  int64_t stride() const {
    return (vocab_size + kLogitRowStep - 1) / kLogitRowStep * kLogitRowStep;
  }
};

// On the host.
struct Problem {
  Tensor logits_RV, targets_R, weights_R;

  // Logits up to about 40, whose exponentials fp32 would not hold the sums of. Row 1 has weight 0
  // and a target that no vocabulary has; the target of row 2, of weight 1, is the first beyond.
  explicit Problem(const Rows& rows) {
    Context ctx;
    logits_RV = random_tensor(ctx, {rows.num_rows, rows.stride()}, 1, 10).to(DType::kF32);
    targets_R = ctx.empty({rows.num_rows}, DType::kI32);
    weights_R = ctx.empty({rows.num_rows}, DType::kF32);
    for (int64_t r = 0; r < rows.num_rows; ++r) {
      const auto V = static_cast<uint64_t>(rows.vocab_size);
      targets_R.data<int32_t>()[r] =
          r == 1   ? -7
          : r == 2 ? static_cast<int32_t>(rows.vocab_size)
                   : static_cast<int32_t>(uniform_index(2, 0, static_cast<uint64_t>(r), V));
      weights_R.data<float>()[r] = r == 1 ? 0 : 0.5f * static_cast<float>(r + 1);
    }
  }
};

double log_sum_exp(const float* logits, int64_t count) {
  double largest = -INFINITY, sum = 0;
  for (int64_t v = 0; v < count; ++v) largest = std::max(largest, double{logits[v]});
  for (int64_t v = 0; v < count; ++v) sum += std::exp(logits[v] - largest);
  return largest + std::log(sum);
}

double value(const Tensor& tensor, int64_t index) {
  return tensor.dtype() == DType::kF32 ? tensor.data<float>()[index]
                                       : static_cast<float>(tensor.data<bf16>()[index]);
}

// Row r of the gradients begins where row r of the logits began.
void expect_gradients(const Problem& problem, const Rows& rows, const Tensor& gradients_RV,
                      int64_t r, double lse) {
  const bool is_fp32 = gradients_RV.dtype() == DType::kF32;
  const int64_t first = r * gradients_RV.dim(1);
  const float* logits = problem.logits_RV.data<float>() + r * rows.stride();
  const double weight = problem.weights_R.data<float>()[r];
  for (int64_t v = 0; v < rows.vocab_size; ++v) {
    const double p = std::exp(logits[v] - lse) - (problem.targets_R.data<int32_t>()[r] == v);
    const double bound = (is_fp32 ? 3e-5 : 4e-3) * std::abs(weight * p) + 1e-6 * weight;
    ASSERT_NEAR(value(gradients_RV, first + v), weight * p, bound)
        << "row " << r << ", logit " << v;
  }
}

void expect_equal_to_definition(const Rows& rows, bool wants_gradients, DType gradient_dtype) {
  SCOPED_TRACE(fmt::format("{} rows of {}, {}", rows.num_rows, rows.vocab_size,
                           wants_gradients ? dtype_name(gradient_dtype) : "losses alone"));
  const Context gpu = poisoned_gpu();
  const Problem problem(rows);
  const Tensor logits_RV = problem.logits_RV.to(gpu.memory);
  const Tensor targets_R = problem.targets_R.to(gpu.memory);
  const Tensor weights_R = problem.weights_R.to(gpu.memory);
  const Tensor losses_R = gpu.empty({rows.num_rows}, DType::kF32);
  cross_entropy_rows_cuda({.num_rows = rows.num_rows,
                           .vocab_size = rows.vocab_size,
                           .row_stride = rows.stride(),
                           .logits_RV = logits_RV.device_data<float>(),
                           .targets_R = targets_R.device_data<int32_t>(),
                           .weights_R = weights_R.device_data<float>(),
                           .losses_R = losses_R.device_data<float>(),
                           .wants_gradients = wants_gradients,
                           .gradient_dtype = gradient_dtype},
                          compute_stream(gpu));
  const Tensor losses = on_host(losses_R), after = on_host(logits_RV);
  for (int64_t r = 0; r < rows.num_rows; ++r) {
    const float* logits = problem.logits_RV.data<float>() + r * rows.stride();
    const double lse = log_sum_exp(logits, rows.vocab_size);
    const int32_t target = problem.targets_R.data<int32_t>()[r];
    const float loss = losses.data<float>()[r];
    if (r == 1) {
      EXPECT_EQ(loss, 0) << "of a row of weight 0";
    } else if (r == 2) {
      EXPECT_TRUE(std::isnan(loss)) << "of a target beyond the vocabulary";
    } else {
      EXPECT_NEAR(loss, lse - logits[target], 1e-5 * (1 + std::abs(lse))) << "row " << r;
    }
    if (!wants_gradients || r == 2) continue;
    Tensor gradients_RV = after;
    if (gradient_dtype == DType::kBF16) {
      // The first half of where the row's logits were.
      gradients_RV = Tensor::empty(std::make_shared<Memory>(), {rows.num_rows, 2 * rows.stride()},
                                   DType::kBF16);
      std::copy_n(after.raw(), after.num_bytes(), gradients_RV.raw());
    }
    expect_gradients(problem, rows, gradients_RV, r, lse);
  }
}

TEST(CrossEntropyRowsOnGpu, EqualTheDefinitionForVocabulariesOfAnySize) {
  for (const int64_t vocab_size : {1, 3, 257, 4096, 32001, 128256, 151936, 262144}) {
    const Rows rows{5, vocab_size};
    expect_equal_to_definition(rows, /*wants_gradients=*/false, DType::kF32);
    for (const DType dtype : {DType::kF32, DType::kBF16})
      expect_equal_to_definition(rows, /*wants_gradients=*/true, dtype);
  }
  expect_equal_to_definition({700, 1000}, /*wants_gradients=*/true, DType::kBF16);
}

}  // namespace
}  // namespace longship
