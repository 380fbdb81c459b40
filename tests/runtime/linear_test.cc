#include "runtime/ops/linear.h"

#include <gtest/gtest.h>

#include <omp.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/matmul_check.h"
#include "tests/support/matrix_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::operand;
using testing::product_error;
using testing::ProductTypes;
using testing::random_tensor;
using testing::reference_product;
using testing::relative_rms;
using testing::value_at;

// Bound on the relative RMS of a product, from the rounding of its result and of its sums.
double bound(DType dtype) {
  return dtype == DType::kF64 ? 1e-14 : dtype == DType::kF32 ? 1e-6 : 3e-3;
}

constexpr ProductTypes kTypes[] = {{DType::kF64, DType::kF64},
                                   {DType::kF32, DType::kF32},
                                   {DType::kBF16, DType::kBF16},
                                   {DType::kBF16, DType::kF32}};
const std::vector<Shape> kExtentsMNK = {{1, 1, 1},    {1, 257, 3},   {3, 1, 255},  {2, 3, 1},
                                        {17, 33, 65}, {129, 130, 7}, {150, 63, 71}};

TEST(Matmul, EqualsTheDefinitionForEveryTypeShapeAndLayout) {
  Context ctx;
  ctx.num_threads = 2;
  for (const ProductTypes& types : kTypes)
    for (const Shape& extents : kExtentsMNK)
      // Every triple of layouts once, some of them at the other shapes.
      for (int layouts = 0; layouts < 27; layouts += extents == kExtentsMNK.back() ? 1 : 5)
        testing::check_matmul(ctx, types, extents, layouts, bound(types.result));
}

TEST(Matmul, HasNoSeamsBetweenTilesAndAddsTheBiasOfEachColumn) {
  // Large enough to be cut by rows, by columns, and by both, at edges that are no round numbers.
  Context ctx;
  ctx.num_threads = 2;
  for (const ProductTypes& types : kTypes)
    for (const Shape& extents : std::vector<Shape>{{700, 41, 70}, {43, 701, 70}, {515, 299, 33}}) {
      const int64_t M = extents[0], N = extents[1], K = extents[2];
      const Tensor a = operand(ctx, M, K, types.operand, 0, 1);
      const Tensor b = operand(ctx, K, N, types.operand, 1, 2);
      const Tensor bias_1N = operand(ctx, 1, N, types.result, 0, 3);
      const Tensor c = ctx.empty({M, N}, types.result);
      matmul(ctx, a, b, c);
      EXPECT_LE(product_error(c, reference_product(a, b), K), bound(types.result));
      const Tensor start = ctx.empty({M, N}, types.result);
      for (int64_t m = 0; m < M; ++m) start.slice(0, m, 1).copy_from(bias_1N);
      matmul_add(ctx, a, b, {bias_1N.reshape({N}), {}}, c);
      EXPECT_LE(product_error(c, reference_product(a, b, start), K), bound(types.result));
    }
}

TEST(Matmul, AddsAResidualOfAnyStrideAndABias) {
  Context ctx;
  for (const ProductTypes& types : kTypes)
    for (const int layout : {0, 2})
      testing::check_matmul_add(ctx, types, {37, 21, 19}, layout, bound(types.result));
}

TEST(Matmul, WritesNothingAroundASlice) {
  Context ctx;
  for (const ProductTypes& types : kTypes) testing::check_matmul_into_slice(ctx, types);
}

TEST(Matmul, GivesTheSameBitsForAnyNumberOfThreads) {
  // Long sums over K are the ones that oneDNN likes to split over the threads of OpenMP.
  Context ctx;
  const int before = omp_get_max_threads();
  for (const ProductTypes& types : kTypes)
    for (const Shape& extents :
         std::vector<Shape>{{257, 130, 2051}, {64, 64, 16384}, {515, 771, 33}}) {
      const Tensor a = operand(ctx, extents[0], extents[2], types.operand, 1, 1);
      const Tensor b = operand(ctx, extents[2], extents[1], types.operand, 0, 2);
      Tensor first;
      for (const int num_threads : {1, 2, 3, 5, 8}) {
        ctx.num_threads = num_threads;
        omp_set_num_threads(num_threads);
        const Tensor c = ctx.zeros({extents[0], extents[1]}, types.result);
        matmul(ctx, a, b, c, true);
        if (!first.defined()) first = c;
        EXPECT_TRUE(bitwise_equal(c, first)) << num_threads << " threads " << shape_string(extents);
      }
    }
  omp_set_num_threads(before);
}

TEST(Matmul, LeavesTheThreadCountOfTheProgramAlone) {
  Context ctx;
  ctx.num_threads = 3;
  const Tensor a = operand(ctx, 300, 300, DType::kF32, 0, 1);
  const Tensor c = ctx.empty({300, 300}, DType::kF32);
  const int before = omp_get_max_threads();
  matmul(ctx, a, a, c);
  EXPECT_EQ(omp_get_max_threads(), before);
}

TEST(Matmul, HandlesEmptyExtents) {
  Context ctx;
  for (const ProductTypes& types : kTypes) testing::check_empty_matmul(ctx, types);
}

TEST(Matmul, RefusesWrongShapesTypesAndStrides) {
  Context ctx;
  const Tensor a = ctx.zeros({4, 6}, DType::kF32), b = ctx.zeros({6, 2}, DType::kF32);
  const Tensor c = ctx.zeros({4, 2}, DType::kF32);
  EXPECT_THROW(matmul(ctx, a, b.transpose(0, 1), c), Error);
  EXPECT_THROW(matmul(ctx, a, b, c.transpose(0, 1)), Error);
  EXPECT_THROW(matmul(ctx, a, b.to(DType::kBF16), c), Error);
  EXPECT_THROW(matmul(ctx, a, b, c.to(DType::kBF16)), Error);
  EXPECT_THROW(matmul(ctx, a, b, c.reshape({8})), Error);
  const Tensor cube = ctx.zeros({4, 6, 3}, DType::kF32);
  EXPECT_THROW(matmul(ctx, cube.slice(2, 1, 1).reshape({4, 6}), b, c), Error);
  EXPECT_THROW(matmul_add(ctx, a, b, {ctx.zeros({3}, DType::kF32), {}}, c), Error);
  EXPECT_THROW(matmul_add(ctx, a, b, {ctx.zeros({2}, DType::kBF16), {}}, c), Error);
  EXPECT_THROW(matmul_add(ctx, a, b, {{}, ctx.zeros({2, 4}, DType::kF32)}, c), Error);
  EXPECT_THROW(matmul_add(ctx, a, b, {{}, ctx.zeros({4, 2}, DType::kBF16)}, c), Error);
  EXPECT_THROW(matmul_add(ctx, a, b, {{}, ctx.zeros({2, 4}, DType::kF32).transpose(0, 1)}, c),
               Error);
}

std::vector<Variable> with_bias(Context& ctx, const std::vector<Variable>& in) {
  return {linear(ctx, in[0], in[1], in[2])};
}

std::vector<Variable> without_bias(Context& ctx, const std::vector<Variable>& in) {
  return {linear(ctx, in[0], in[1])};
}

std::vector<Variable> onto_residual(Context& ctx, const std::vector<Variable>& in) {
  return {linear_add(ctx, in[3], in[0], in[1], in[2])};
}

std::vector<Tensor> linear_inputs(Context& ctx, int64_t T, int64_t I, int64_t O) {
  return {random_tensor(ctx, {T, I}, 1), random_tensor(ctx, {O, I}, 2), random_tensor(ctx, {O}, 3)};
}

TEST(Linear, GradientsEqualCentralDifferences) {
  Context ctx;
  for (const Shape& extents : std::vector<Shape>{{1, 5, 3}, {7, 3, 5}, {3, 1, 1}, {33, 17, 9}}) {
    std::vector<Tensor> inputs = linear_inputs(ctx, extents[0], extents[1], extents[2]);
    inputs.push_back(random_tensor(ctx, {extents[0], extents[2]}, 4));
    testing::check_gradients(onto_residual, inputs);
    inputs.pop_back();
    testing::check_gradients(with_bias, inputs);
    inputs.pop_back();
    testing::check_gradients(without_bias, inputs);
  }
}

TEST(Linear, Fp32AndBf16MatchFp64) {
  Context ctx;
  for (const Shape& extents :
       std::vector<Shape>{{1, 257, 129}, {3, 65, 31}, {301, 65, 131}, {1025, 31, 257}})
    testing::check_precision(with_bias, linear_inputs(ctx, extents[0], extents[1], extents[2]));
}

TEST(Linear, GivesTheSameBitsForAnyNumberOfThreads) {
  Context ctx;
  testing::check_thread_invariance(with_bias, linear_inputs(ctx, 1027, 129, 257));
}

TEST(Linear, GradientsOfParametersStayInFp32) {
  // The sum over 4097 tokens of products near 1 keeps its last digits, which bf16 would drop.
  Context ctx;
  const std::vector<Tensor> inputs = linear_inputs(ctx, 4097, 3, 5);
  const testing::OpResult exact = testing::run_op(with_bias, inputs, DType::kF64);
  const testing::OpResult found = testing::run_op(with_bias, inputs, DType::kBF16);
  for (const size_t parameter : {1, 2}) {
    EXPECT_EQ(found.gradients[parameter].dtype(), DType::kF32);
    EXPECT_LE(relative_rms(found.gradients[parameter], exact.gradients[parameter]), 1e-6);
  }
}

TEST(Linear, RoundsOnceWithAResidual) {
  // In bf16 256 + (1 + 2^-9) is 258; with the product rounded to 1 first, it would be 256.
  Context ctx;
  auto row = [&](std::vector<float> values) {
    return Tensor::from<float>(ctx.memory, {1, std::ssize(values)}, values).to(DType::kBF16);
  };
  const Tensor x_TI = row({1, std::ldexp(1.0f, -9)}), w_OI = row({1, 1});
  const Tensor y_TO = linear_add(ctx, row({256}), x_TI, w_OI).value();
  EXPECT_EQ(value_at(y_TO, 0, 0), 258);
}

TEST(Linear, AddsToTheGradientOfItsInputWithoutACopyOfTheSum) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    testing::TapeContext recorded;
    Context& ctx = recorded.ctx;
    const Tensor w_OI = random_tensor(ctx, {9, 5}, 1).to(dtype);
    const Tensor dy_TO = random_tensor(ctx, {7, 9}, 2).to(dtype);
    const Tensor first_TI = random_tensor(ctx, {7, 5}, 3).to(dtype);
    const Variable x(ctx.zeros({7, 5}, dtype), std::make_shared<Gradient>(Shape{7, 5}, dtype));
    const Variable y = linear(ctx, x, w_OI);
    x.gradient()->add(ctx, first_TI.clone());
    const std::byte* const sum = x.gradient()->sum().raw();
    recorded.tape.backward(ctx, y, dy_TO);
    EXPECT_EQ(x.gradient()->sum().raw(), sum);
    EXPECT_LE(product_error(x.gradient()->sum(), reference_product(dy_TO, w_OI, first_TI), 9),
              bound(dtype));
  }
}

TEST(Linear, AddsToTheGradientsThatAreThere) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    testing::TapeContext recorded;
    Context& ctx = recorded.ctx;
    std::vector<Variable> leaves;
    for (const Tensor& input : linear_inputs(ctx, 67, 9, 33))
      leaves.push_back(Variable::leaf(input.to(dtype)));
    std::vector<Tensor> once;
    for (int repeat = 0; repeat < 2; ++repeat) {
      const Variable y = linear(ctx, leaves[0], leaves[1], leaves[2]);
      recorded.tape.backward(ctx, y, y.value().clone());
      if (repeat == 0)
        for (const Variable& leaf : leaves) once.push_back(leaf.gradient()->sum().clone());
    }
    for (size_t i = 0; i < leaves.size(); ++i) {
      const Tensor twice = leaves[i].gradient()->sum().to(DType::kF64);
      const Tensor one = once[i].to(DType::kF64);
      for (int64_t n = 0; n < one.numel(); ++n)
        EXPECT_NEAR(twice.data<double>()[n], 2 * one.data<double>()[n], 1e-4) << "input " << i;
    }
  }
}

TEST(Linear, AShardWithoutTokensGivesZeroWeightGradients) {
  Context ctx;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const testing::OpResult result = testing::run_op(with_bias, linear_inputs(ctx, 0, 5, 3), dtype);
    EXPECT_EQ(result.outputs[0].shape(), (Shape{0, 3}));
    EXPECT_EQ(result.gradients[0].shape(), (Shape{0, 5}));
    for (const size_t parameter : {1, 2}) {
      const Tensor& gradient = result.gradients[parameter];
      EXPECT_TRUE(bitwise_equal(gradient, ctx.zeros(gradient.shape(), gradient.dtype())));
    }
  }
}

TEST(Linear, SavesOnlyWhatTheWantedGradientsNeed) {
  testing::TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Tensor x = random_tensor(ctx, {4, 3}, 1), w = random_tensor(ctx, {2, 3}, 2);
  auto saved_names = [&](const Variable& input, const Variable& weight) {
    linear(ctx, input, weight);
    std::string names;
    recorded.tape.visit_saved([&](std::string_view node, std::string_view name, Tensor&) {
      names += fmt::format("{}.{} ", node, name);
    });
    recorded.tape.clear();
    return names;
  };
  EXPECT_EQ(saved_names(Variable::leaf(x), w), "linear.w_OI ");
  EXPECT_EQ(saved_names(x, Variable::leaf(w)), "linear.x_TI ");
  EXPECT_EQ(saved_names(Variable::leaf(x), Variable::leaf(w)), "linear.x_TI linear.w_OI ");
  EXPECT_EQ(saved_names(x, w), "");
}

// 2^31 + 2^15 elements of bf16. The pages of a fresh block that nobody writes read as zero and
// take no memory.
TEST(Linear, ReadsATensorOfMoreThanTwoToThe31Elements) {
  Context ctx;
  const int64_t T = (int64_t{1} << 16) + 1, I = int64_t{1} << 15;
  const Tensor x_TI = ctx.empty({T, I}, DType::kBF16);
  ASSERT_GT(x_TI.numel(), int64_t{1} << 31);
  const Tensor w_OI = ctx.empty({1, I}, DType::kBF16);
  for (int64_t i = 0; i < I; ++i) w_OI.data<bf16>()[i] = bf16(1.0f);
  for (int64_t i = 0; i < 3; ++i) x_TI.data<bf16>()[x_TI.numel() - 1 - i] = bf16(2.0f);
  const Variable y = linear(ctx, x_TI, w_OI);
  EXPECT_EQ(static_cast<float>(y.value().data<bf16>()[T - 1]), 6.0f);
  EXPECT_EQ(static_cast<float>(y.value().data<bf16>()[T - 2]), 0.0f);
}

}  // namespace
}  // namespace longship
