// Linear layers on a GPU against the CPU's in fp64, with poisoned outputs.
#include <gtest/gtest.h>

#include "runtime/ops/linear.h"
#include "tests/support/gpu_check.h"
#include "tests/support/matrix_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::poisoned_gpu;
using testing::product_error;
using testing::random_tensor;
using testing::reference_product;
using testing::relative_rms;

struct Size {
  int64_t T, I, O;
};

// x, w, bias, residual and dy in fp64 on the host, with values that bf16 holds exactly.
std::vector<Tensor> inputs_of(const Size& size) {
  Context host;
  std::vector<Tensor> inputs;
  for (const Shape& shape : std::vector<Shape>{
           {size.T, size.I}, {size.O, size.I}, {size.O}, {size.T, size.O}, {size.T, size.O}})
    inputs.push_back(
        random_tensor(host, shape, 1 + inputs.size()).to(DType::kBF16).to(DType::kF64));
  return inputs;
}

// y, then the gradients of x, w, bias and residual, on the host; `repeats` backward passes add up.
std::vector<Tensor> run(Context ctx, const std::vector<Tensor>& inputs, DType dtype,
                        int repeats = 1) {
  Tape tape;
  ctx.tape = &tape;
  std::vector<Variable> leaves;
  for (size_t i = 0; i < 4; ++i)
    leaves.push_back(Variable::leaf(inputs[i].to(dtype).to(ctx.memory)));
  const auto host = std::make_shared<Memory>();
  std::vector<Tensor> results;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const Variable y = linear_add(ctx, leaves[3], leaves[0], leaves[1], leaves[2]);
    tape.backward(ctx, y, inputs[4].to(dtype).to(ctx.memory));
    results = {y.value().to(host)};
  }
  for (const Variable& leaf : leaves) results.push_back(leaf.gradient()->sum().to(host));
  return results;
}

TEST(LinearOnGpu, EqualsTheCpuForwardAndBackward) {
  const Context gpu = poisoned_gpu();
  Context cpu;
  cpu.num_threads = 4;
  for (const Size& size : std::vector<Size>{
           {1, 5, 3}, {3, 65, 31}, {301, 65, 131}, {1025, 31, 257}, {128, 64, 192}, {5001, 64, 7}})
    for (const int repeats : {1, 2}) {
      const std::vector<Tensor> inputs = inputs_of(size);
      const std::vector<Tensor> exact = run(cpu, inputs, DType::kF64, repeats);
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        const std::vector<Tensor> found = run(gpu, inputs, dtype, repeats);
        for (size_t i = 0; i < exact.size(); ++i) {
          // Only y is rounded to bf16: the gradients of leaves are sums in fp32 of exact products.
          const double sums = dtype == DType::kBF16 ? 1e-5 : 4e-6;
          const double bound = i == 0 && dtype == DType::kBF16 ? 4e-3 : sums;
          EXPECT_LE(relative_rms(found[i], exact[i]), bound)
              << "result " << i << " in " << dtype_name(dtype) << " of T " << size.T << " I "
              << size.I << " O " << size.O << " after " << repeats;
        }
      }
    }
}

TEST(LinearOnGpu, AddsToTheGradientOfItsInputInPlaceAndRoundsOnce) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Context gpu = poisoned_gpu();
    Tape tape;
    gpu.tape = &tape;
    Context host;
    const Tensor w_OI = random_tensor(host, {9, 5}, 1).to(dtype);
    const Tensor dy_TO = random_tensor(host, {7, 9}, 2).to(dtype);
    const Tensor first_TI = random_tensor(host, {7, 5}, 3).to(dtype);
    const Variable x(gpu.zeros({7, 5}, dtype), std::make_shared<Gradient>(Shape{7, 5}, dtype));
    const Variable y = linear(gpu, x, w_OI.to(gpu.memory));
    x.gradient()->add(gpu, first_TI.to(gpu.memory));
    const std::byte* const sum = x.gradient()->sum().address();
    tape.backward(gpu, y, dy_TO.to(gpu.memory));
    EXPECT_EQ(x.gradient()->sum().address(), sum);
    EXPECT_LE(product_error(x.gradient()->sum(), reference_product(dy_TO, w_OI, first_TI), 9),
              dtype == DType::kF32 ? 1e-6 : 3e-3);
  }
}

TEST(LinearOnGpu, AShardWithoutTokensGivesZeroWeightGradients) {
  const Context gpu = poisoned_gpu();
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<Tensor> found = run(gpu, inputs_of({0, 5, 3}), dtype);
    EXPECT_EQ(found[0].shape(), (Shape{0, 3}));
    EXPECT_EQ(found[1].shape(), (Shape{0, 5}));
    for (const size_t parameter : {2, 3}) {
      const Tensor& gradient = found[parameter];
      EXPECT_EQ(relative_rms(gradient,
                             Tensor::zeros(gradient.memory(), gradient.shape(), gradient.dtype())),
                0);
    }
  }
}

TEST(LinearOnGpu, GivesTheSameBitsAgain) {
  const std::vector<Tensor> inputs = inputs_of({5003, 128, 257});
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<Tensor> first = run(poisoned_gpu(), inputs, dtype, 2);
    for (int repeat = 0; repeat < 2; ++repeat) {
      const std::vector<Tensor> again = run(poisoned_gpu(), inputs, dtype, 2);
      for (size_t i = 0; i < first.size(); ++i)
        EXPECT_TRUE(bitwise_equal(again[i], first[i])) << "result " << i;
    }
  }
}

}  // namespace
}  // namespace longship
