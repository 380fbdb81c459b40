#include "tests/support/op_check.h"

#include <gtest/gtest.h>

#include <cstring>

#include "runtime/gpu.h"
#include "tests/support/gradient_check.h"

namespace longship::testing {

OpResult run_op(const OpFunction& function, const std::vector<Tensor>& inputs, DType dtype,
                Context ctx) {
  Tape tape;
  ctx.tape = &tape;
  std::vector<Variable> leaves;
  for (const Tensor& input : inputs)
    leaves.push_back(Variable::leaf(upload(ctx, input.to(DType::kBF16).to(dtype))));
  const std::vector<Variable> outputs = function(ctx, leaves);
  const auto host = std::make_shared<Memory>();
  OpResult result;
  for (size_t o = 0; o < outputs.size(); ++o) {
    result.outputs.push_back(outputs[o].value().to(host));
    Context host_ctx;
    const Tensor grad = random_tensor(host_ctx, outputs[o].shape(), 1000 + o);
    outputs[o].gradient()->add(ctx, upload(ctx, grad.to(DType::kBF16)));
  }
  tape.backward(ctx, outputs[0], ctx.zeros(outputs[0].shape(), outputs[0].dtype()));
  for (const Variable& leaf : leaves) result.gradients.push_back(leaf.gradient()->sum().to(host));
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

void expect_near(const OpResult& found, const OpResult& exact, DType dtype) {
  const double tolerance = dtype == DType::kF32 ? 2e-6 : 4e-3;  // of one element alone, a few ulps
  expect_near(found.outputs, exact.outputs, tolerance, "output", dtype);
  expect_near(found.gradients, exact.gradients, tolerance, "gradient", dtype);
}

void expect_same_bits(const OpResult& found, const OpResult& expected, const std::string& where) {
  for (size_t i = 0; i < expected.outputs.size(); ++i)
    EXPECT_TRUE(bitwise_equal(found.outputs[i], expected.outputs[i]))
        << "output " << i << " in " << where;
  for (size_t i = 0; i < expected.gradients.size(); ++i)
    EXPECT_TRUE(bitwise_equal(found.gradients[i], expected.gradients[i]))
        << "gradient " << i << " in " << where;
}

}  // namespace

void check_precision(const OpFunction& function, const std::vector<Tensor>& inputs) {
  const OpResult exact = run_op(function, inputs, DType::kF64);
  for (DType dtype : {DType::kF32, DType::kBF16})
    expect_near(run_op(function, inputs, dtype), exact, dtype);
}

void check_thread_invariance(const OpFunction& function, const std::vector<Tensor>& inputs) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const OpResult one = run_op(function, inputs, dtype);
    for (int num_threads : {2, 3, 7}) {
      Context many;
      many.num_threads = num_threads;
      expect_same_bits(run_op(function, inputs, dtype, many), one,
                       fmt::format("{} on {} threads", dtype_name(dtype), num_threads));
    }
  }
}

void check_on_gpu(const Context& gpu, const OpFunction& function,
                  const std::vector<Tensor>& inputs) {
  Context cpu;
  cpu.num_threads = 4;
  const OpResult exact = run_op(function, inputs, DType::kF64, cpu);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const OpResult found = run_op(function, inputs, dtype, gpu);
    expect_near(found, exact, dtype);
    expect_same_bits(run_op(function, inputs, dtype, gpu), found,
                     fmt::format("{} on a GPU, again", dtype_name(dtype)));
  }
}

}  // namespace longship::testing
