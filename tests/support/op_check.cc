#include "tests/support/op_check.h"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/gradient_check.h"

namespace longship::testing {

OpResult run_op(const OpFunction& function, const std::vector<Tensor>& inputs, DType dtype,
                int num_threads) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  ctx.num_threads = num_threads;
  std::vector<Variable> leaves;
  for (const Tensor& input : inputs)
    leaves.push_back(Variable::leaf(input.to(DType::kBF16).to(dtype)));
  const std::vector<Variable> outputs = function(ctx, leaves);
  OpResult result;
  for (size_t o = 0; o < outputs.size(); ++o) {
    result.outputs.push_back(outputs[o].value());
    const Tensor grad = random_tensor(ctx, outputs[o].shape(), 1000 + o);
    outputs[o].gradient()->add(ctx, grad.to(DType::kBF16));
  }
  recorded.tape.backward(ctx, outputs[0], ctx.zeros(outputs[0].shape(), outputs[0].dtype()));
  for (const Variable& leaf : leaves) result.gradients.push_back(leaf.gradient()->sum());
  return result;
}

bool bitwise_equal(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  const Tensor x = a.contiguous(), y = b.contiguous();
  return std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.num_bytes())) == 0;
}

namespace {

void expect_near(const std::vector<Tensor>& found, const std::vector<Tensor>& expected,
                 double tolerance, const char* kind, DType dtype) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_LE(relative_rms(found[i], expected[i]), tolerance)
        << kind << " " << i << " in " << dtype_name(dtype) << " of shape "
        << shape_string(found[i].shape());
}

}  // namespace

void check_precision(const OpFunction& function, const std::vector<Tensor>& inputs) {
  const OpResult exact = run_op(function, inputs, DType::kF64);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const OpResult found = run_op(function, inputs, dtype);
    const double tolerance = dtype == DType::kF32 ? 1e-6 : 4e-3;
    expect_near(found.outputs, exact.outputs, tolerance, "output", dtype);
    expect_near(found.gradients, exact.gradients, tolerance, "gradient", dtype);
  }
}

void check_thread_invariance(const OpFunction& function, const std::vector<Tensor>& inputs) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const OpResult one = run_op(function, inputs, dtype, 1);
    for (int num_threads : {2, 3, 7}) {
      const OpResult many = run_op(function, inputs, dtype, num_threads);
      for (size_t i = 0; i < one.outputs.size(); ++i)
        EXPECT_TRUE(bitwise_equal(one.outputs[i], many.outputs[i]))
            << "output " << i << " in " << dtype_name(dtype) << " on " << num_threads << " threads";
      for (size_t i = 0; i < one.gradients.size(); ++i)
        EXPECT_TRUE(bitwise_equal(one.gradients[i], many.gradients[i]))
            << "gradient " << i << " in " << dtype_name(dtype) << " on " << num_threads
            << " threads";
    }
  }
}

}  // namespace longship::testing
