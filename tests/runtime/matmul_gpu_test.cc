// Products on a GPU against the definition in fp64, with poisoned outputs.
#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/ops/matmul.h"
#include "tests/support/expect_error.h"
#include "tests/support/gpu_check.h"
#include "tests/support/matmul_check.h"
#include "tests/support/matrix_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::on_host;
using testing::operand;
using testing::poisoned_gpu;
using testing::product_error;
using testing::ProductTypes;
using testing::reference_product;
using testing::value_at;

constexpr ProductTypes kTypes[] = {
    {DType::kF32, DType::kF32}, {DType::kBF16, DType::kBF16}, {DType::kBF16, DType::kF32}};

// TF32 would keep 10 bits of an fp32 operand, with errors near 3e-4. Tensor cores, which multiply
// bf16, cut off the last bits of their fp32 sums instead of rounding them.
double bound(const ProductTypes& types, int64_t K) {
  if (types.result == DType::kBF16) return 3e-3;
  const double longer = std::max(1.0, static_cast<double>(K) / 1024);
  return (types.operand == DType::kF32 ? 1e-6 : 4e-6) * longer;
}

TEST(MatmulOnGpu, EqualsTheDefinitionForEveryTypeShapeAndLayout) {
  const Context gpu = poisoned_gpu();
  const std::vector<Shape> extents_MNK = {{1, 1, 1},     {1, 257, 3},    {3, 1, 255},
                                          {2, 3, 1},     {17, 33, 65},   {129, 130, 7},
                                          {128, 64, 96}, {256, 136, 64}, {150, 63, 71}};
  for (const ProductTypes& types : kTypes)
    for (const Shape& extents : extents_MNK)
      for (int layouts = 0; layouts < 27; ++layouts)
        testing::check_matmul(gpu, types, extents, layouts, bound(types, extents[2]));
}

TEST(MatmulOnGpu, EqualsTheDefinitionForLargeMatricesAndLongSums) {
  const Context gpu = poisoned_gpu();
  for (const ProductTypes& types : kTypes)
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
  for (const ProductTypes& types : kTypes)
    for (const Shape& extents : std::vector<Shape>{{37, 21, 19}, {128, 64, 32}, {1, 5, 9}})
      for (const int layout : {0, 2})
        testing::check_matmul_add(gpu, types, extents, layout, bound(types, extents[2]));
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
  for (const ProductTypes& types : kTypes) testing::check_matmul_into_slice(gpu, types);
}

TEST(MatmulOnGpu, HandlesEmptyExtents) {
  const Context gpu = poisoned_gpu();
  for (const ProductTypes& types : kTypes) testing::check_empty_matmul(gpu, types);
}

TEST(MatmulOnGpu, GivesTheSameBitsAgain) {
  for (const ProductTypes& types : kTypes)
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
