// Products on a GPU against the definition in fp64, with poisoned outputs.
#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/gpu.h"
#include "runtime/ops/matmul.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/matrix_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::operand;
using testing::product_error;
using testing::random_tensor;
using testing::reference_product;
using testing::relative_rms;
using testing::value_at;

struct Types {
  DType operand, result;
};
constexpr Types kTypes[] = {
    {DType::kF32, DType::kF32}, {DType::kBF16, DType::kBF16}, {DType::kBF16, DType::kF32}};

// TF32 would keep 10 bits of an fp32 operand, with errors near 3e-4. Tensor cores, which multiply
// bf16, cut off the last bits of their fp32 sums instead of rounding them.
double bound(const Types& types, int64_t K) {
  if (types.result == DType::kBF16) return 3e-3;
  const double longer = std::max(1.0, static_cast<double>(K) / 1024);
  return (types.operand == DType::kF32 ? 1e-6 : 4e-6) * longer;
}

Context poisoned_gpu() {
  const Context ctx = gpu_context(0);
  ctx.memory->set_poison(true);
  return ctx;
}

Tensor on_host(const Tensor& tensor) {
  return tensor.to(std::make_shared<Memory>());
}

TEST(MatmulOnGpu, EqualsTheDefinitionForEveryTypeShapeAndLayout) {
  const Context gpu = poisoned_gpu();
  const std::vector<Shape> extents_MNK = {{1, 1, 1},     {1, 257, 3},    {3, 1, 255},
                                          {2, 3, 1},     {17, 33, 65},   {129, 130, 7},
                                          {128, 64, 96}, {256, 136, 64}, {150, 63, 71}};
  for (const Types types : kTypes)
    for (const Shape& extents : extents_MNK)
      for (int layouts = 0; layouts < 27; ++layouts)
        for (const bool accumulate : {false, true}) {
          const int64_t M = extents[0], N = extents[1], K = extents[2];
          const Tensor a = operand(gpu, M, K, types.operand, layouts % 3, 1);
          const Tensor b = operand(gpu, K, N, types.operand, layouts / 3 % 3, 2);
          const Tensor c = operand(gpu, M, N, types.result, layouts / 9, 3);
          const Tensor expected = reference_product(a, b, accumulate ? c : Tensor());
          matmul(gpu, a, b, c, accumulate);
          ASSERT_LE(product_error(c, expected, K), bound(types, K))
              << dtype_name(types.operand) << " to " << dtype_name(types.result) << " "
              << shape_string(extents) << " layouts " << layouts << " accumulate " << accumulate;
        }
}

TEST(MatmulOnGpu, EqualsTheDefinitionForLargeMatricesAndLongSums) {
  const Context gpu = poisoned_gpu();
  for (const Types types : kTypes)
    for (const Shape& extents : std::vector<Shape>{
             {700, 41, 70}, {515, 299, 33}, {512, 384, 256}, {64, 64, 16384}, {129, 65, 20001}}) {
      const int64_t M = extents[0], N = extents[1], K = extents[2];
      const Tensor a = operand(gpu, M, K, types.operand, 0, 1);
      const Tensor b = operand(gpu, K, N, types.operand, 1, 2);
      const Tensor c = gpu.empty({M, N}, types.result);
      matmul(gpu, a, b, c);
      EXPECT_LE(product_error(c, reference_product(a, b), K), bound(types, K))
          << dtype_name(types.operand) << " " << shape_string(extents);
    }
}

TEST(MatmulOnGpu, MultipliesFp32InFullPrecision) {
  // TF32 and bf16 take 1 + 2^-20 for 1, and then the product is 0. In fp32 every order of its sums
  // is exact.
  const Context gpu = poisoned_gpu();
  const int64_t M = 256, K = 16;
  const auto host = std::make_shared<Memory>();
  const Tensor a = Tensor::empty(host, {M, K}, DType::kF32);
  const Tensor b = Tensor::empty(host, {K, M}, DType::kF32);
  for (int64_t i = 0; i < M * K; ++i) {
    a.data<float>()[i] = i % 2 == 0 ? 1 + 0x1p-20f : -1;
    b.data<float>()[i] = 1;
  }
  const Tensor c = gpu.empty({M, M}, DType::kF32);
  matmul(gpu, a.to(gpu.memory), b.to(gpu.memory), c);
  EXPECT_EQ(value_at(on_host(c), 3, 5), 8 * 0x1p-20);
}

TEST(MatmulOnGpu, AddsABiasAndAResidualOfAnyStride) {
  const Context gpu = poisoned_gpu();
  for (const Types types : kTypes)
    for (const Shape& extents : std::vector<Shape>{{37, 21, 19}, {128, 64, 32}, {1, 5, 9}})
      for (const int layout : {0, 2}) {
        const int64_t M = extents[0], N = extents[1], K = extents[2];
        const Tensor a = operand(gpu, M, K, types.operand, 0, 1);
        const Tensor b = operand(gpu, K, N, types.operand, 1, 2);
        const Tensor residual = operand(gpu, M, N, types.result, layout, 3);
        const Tensor bias_N = operand(gpu, 1, N, types.result, 0, 4).reshape({N});
        const Tensor start = Tensor::zeros(std::make_shared<Memory>(), {M, N}, DType::kF64);
        for (int64_t m = 0; m < M; ++m)
          start.slice(0, m, 1).copy_from(on_host(bias_N).to(DType::kF64).reshape({1, N}));
        const Tensor c = gpu.empty({M, N}, types.result);
        const std::string name = fmt::format("{} to {} {}", dtype_name(types.operand),
                                             dtype_name(types.result), shape_string(extents));
        matmul_add(gpu, a, b, {bias_N, {}}, c);
        EXPECT_LE(product_error(c, reference_product(a, b, start), K), bound(types, K)) << name;
        matmul_add(gpu, a, b, {{}, residual}, c);
        EXPECT_LE(product_error(c, reference_product(a, b, residual), K), bound(types, K)) << name;
        const Tensor host_residual = on_host(residual);
        for (int64_t i = 0; i < M * N; ++i)
          start.data<double>()[i] += value_at(host_residual, i / N, i % N);
        matmul_add(gpu, a, b, {bias_N, residual}, c);
        EXPECT_LE(product_error(c, reference_product(a, b, start), K), bound(types, K)) << name;
      }
}

TEST(MatmulOnGpu, RoundsOnceWithAResidual) {
  // In bf16 256 + (1 + 2^-9) is 258; with the product rounded to 1 first, it would be 256.
  const Context gpu = poisoned_gpu();
  auto row = [&](std::vector<float> values) {
    return Tensor::from<float>(std::make_shared<Memory>(), {1, std::ssize(values)}, values)
        .to(DType::kBF16)
        .to(gpu.memory);
  };
  const Tensor c = gpu.empty({1, 1}, DType::kBF16);
  matmul_add(gpu, row({1, 0x1p-9f}), row({1, 1}).transpose(0, 1), {{}, row({256})}, c);
  EXPECT_EQ(value_at(on_host(c), 0, 0), 258);
}

TEST(MatmulOnGpu, WritesNothingAroundASlice) {
  const Context gpu = poisoned_gpu();
  for (const Types types : kTypes) {
    const Tensor whole = gpu.zeros({37, 41}, types.result);
    const Tensor a = operand(gpu, 33, 19, types.operand, 0, 1);
    const Tensor b = operand(gpu, 19, 35, types.operand, 0, 2);
    matmul(gpu, a, b, whole.slice(0, 2, 33).slice(1, 3, 35));
    const Tensor found = on_host(whole);
    for (int64_t row = 0; row < 37; ++row)
      for (int64_t column = 0; column < 41; ++column) {
        const bool inside = row >= 2 && row < 35 && column >= 3 && column < 38;
        EXPECT_EQ(value_at(found, row, column) != 0.0, inside) << row << ", " << column;
      }
  }
}

TEST(MatmulOnGpu, HandlesEmptyExtents) {
  const Context gpu = poisoned_gpu();
  for (const Types types : kTypes) {
    matmul(gpu, gpu.empty({0, 5}, types.operand), gpu.empty({5, 3}, types.operand),
           gpu.empty({0, 3}, types.result));
    const Tensor c = operand(gpu, 4, 3, types.result, 0, 1), before = on_host(c).clone();
    const Tensor a = gpu.empty({4, 0}, types.operand), b = gpu.empty({0, 3}, types.operand);
    matmul(gpu, a, b, c, true);
    EXPECT_TRUE(bitwise_equal(on_host(c), before));
    matmul_add(gpu, a, b, {{}, before.to(gpu.memory)}, c);
    EXPECT_TRUE(bitwise_equal(on_host(c), before));
    matmul(gpu, a, b, c);
    EXPECT_EQ(relative_rms(on_host(c), Tensor::zeros(before.memory(), {4, 3}, types.result)), 0.0);
  }
}

TEST(MatmulOnGpu, GivesTheSameBitsAgain) {
  for (const Types types : kTypes)
    for (const Shape& extents :
         std::vector<Shape>{{257, 130, 2051}, {64, 64, 16384}, {512, 2048, 4096}}) {
      Tensor first;
      for (int repeat = 0; repeat < 3; ++repeat) {
        const Context gpu = poisoned_gpu();  // a library that knows nothing of earlier choices
        const Tensor shift = gpu.empty({12345 * (repeat + 1)}, DType::kU8);
        const Tensor a = operand(gpu, extents[0], extents[2], types.operand, 1, 1);
        const Tensor b = operand(gpu, extents[2], extents[1], types.operand, 0, 2);
        const Tensor c = gpu.zeros({extents[0], extents[1]}, types.result);
        for (int again = 0; again < 2; ++again) {
          c.fill_zero();
          matmul(gpu, a, b, c, true);
          const Tensor found = on_host(c);
          if (!first.defined()) first = found;
          EXPECT_TRUE(bitwise_equal(found, first)) << shape_string(extents);
        }
      }
    }
}

TEST(MatmulOnGpu, SumsRowsOnTheWay) {
  const Context gpu = poisoned_gpu();
  const int64_t T = 8192, O = 256, I = 128;
  const Tensor dy_TO = operand(gpu, T, O, DType::kBF16, 0, 1);
  const Tensor x_TI = operand(gpu, T, I, DType::kBF16, 0, 2);
  const Tensor ones_TI = Tensor::zeros(std::make_shared<Memory>(), {T, 1}, DType::kF64);
  for (int64_t t = 0; t < T; ++t) ones_TI.data<double>()[t] = 1;
  const Tensor exact_O1 = reference_product(dy_TO.transpose(0, 1), ones_TI);
  const Tensor exact_OI = reference_product(dy_TO.transpose(0, 1), x_TI);
  Tensor first;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const Tensor dw_OI = gpu.empty({O, I}, DType::kF32), sums_O = gpu.empty({O}, DType::kF32);
    ASSERT_TRUE(matmul_with_row_sums(gpu, dy_TO.transpose(0, 1), x_TI, {}, dw_OI, sums_O))
        << "cuBLASLt has no kernel with BGRADB";
    const Tensor found = on_host(sums_O).reshape({O, 1});
    EXPECT_LE(product_error(found, exact_O1, T), 1e-5);
    EXPECT_LE(product_error(dw_OI, exact_OI, T), 1e-5);
    if (!first.defined()) first = found;
    EXPECT_TRUE(bitwise_equal(found, first));
  }
}

// 2^31 + 2^15 elements.
TEST(MatmulOnGpu, ReadsATensorOfMoreThanTwoToThe31Elements) {
  const Context gpu = gpu_context(0);
  const int64_t T = (int64_t{1} << 16) + 1, I = int64_t{1} << 15;
  const Tensor x_TI = gpu.zeros({T, I}, DType::kBF16);
  const Tensor last_1I = operand(gpu, 1, I, DType::kBF16, 0, 1);
  x_TI.slice(0, T - 1, 1).copy_from(last_1I);
  const Tensor w_IO = operand(gpu, I, 8, DType::kBF16, 1, 2);
  const Tensor y_TO = gpu.empty({T, 8}, DType::kF32);
  matmul(gpu, x_TI, w_IO, y_TO);
  EXPECT_LE(product_error(y_TO.slice(0, T - 1, 1), reference_product(last_1I, w_IO), I), 1e-4);
  EXPECT_EQ(value_at(on_host(y_TO.slice(0, T - 2, 1)), 0, 0), 0);
}

TEST(MatmulOnGpu, RefusesFp64AndTensorsOfTheHost) {
  const Context gpu = gpu_context(0);
  const Tensor wide = gpu.zeros({8, 8}, DType::kF64), a = gpu.zeros({8, 8}, DType::kF32);
  testing::expect_error(ErrorCode::kInternal, {"fp64"}, [&] {
    matmul(gpu, wide, wide, gpu.zeros({8, 8}, DType::kF64));
  });
  testing::expect_error(ErrorCode::kInternal, {"matmul", "the CPU"}, [&] {
    matmul(gpu, a, on_host(a), gpu.zeros({8, 8}, DType::kF32));
  });
}

}  // namespace
}  // namespace longship
