#include "runtime/tensor.h"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>

#include "runtime/context.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

using testing::expect_error;

// 0, 1, 2, ... in row-major order.
Tensor counting(Context& ctx, Shape shape) {
  Tensor tensor = ctx.empty(std::move(shape), DType::kI32);
  std::iota(tensor.data<int32_t>(), tensor.data<int32_t>() + tensor.numel(), 0);
  return tensor;
}

std::vector<int32_t> values(const Tensor& tensor) {
  const Tensor packed = tensor.contiguous();
  return {packed.data<int32_t>(), packed.data<int32_t>() + packed.numel()};
}

TEST(Tensor, ViewsShareStorageAndKeepItAlive) {
  Context ctx;
  Tensor x = counting(ctx, {3, 4});
  const Tensor row = x.slice(0, 1, 1);
  EXPECT_EQ(row.shape(), (Shape{1, 4}));
  EXPECT_EQ(values(row), (std::vector<int32_t>{4, 5, 6, 7}));
  row.data<int32_t>()[2] = 60;
  EXPECT_EQ(x.data<int32_t>()[6], 60);
  EXPECT_FALSE(x.is_unique());
  x = Tensor();
  EXPECT_TRUE(row.is_unique());
  EXPECT_EQ(values(row), (std::vector<int32_t>{4, 5, 60, 7}));
}

TEST(Tensor, SlicesAndTransposesComposeForAnyDimension) {
  Context ctx;
  const Tensor x = counting(ctx, {2, 3, 4});
  const Tensor view = x.transpose(0, -1).slice(0, 1, 2).slice(-1, 1, 1);
  EXPECT_EQ(view.shape(), (Shape{2, 3, 1}));
  EXPECT_EQ(view.strides(), (Shape{1, 4, 12}));
  // x[1][j][i] for i in {1, 2}, j in {0, 1, 2}
  EXPECT_EQ(values(view), (std::vector<int32_t>{13, 17, 21, 14, 18, 22}));
  EXPECT_FALSE(view.is_contiguous());
  EXPECT_TRUE(x.slice(0, 1, 1).is_contiguous());
  EXPECT_FALSE(x.slice(1, 0, 2).is_contiguous());
}

TEST(Tensor, AnExtentOfOneNeedsNoParticularStride) {
  Context ctx;
  const Tensor column = counting(ctx, {3, 4}).slice(1, 2, 1);
  EXPECT_FALSE(column.is_contiguous());
  EXPECT_TRUE(column.slice(0, 1, 1).is_contiguous());
  EXPECT_EQ(values(column.slice(0, 1, 1).reshape({})), (std::vector<int32_t>{6}));
}

TEST(Tensor, ReshapeKeepsTheOrderOfElements) {
  Context ctx;
  const Tensor x = counting(ctx, {4, 6});
  EXPECT_EQ(x.reshape({2, -1, 3}).shape(), (Shape{2, 4, 3}));
  EXPECT_EQ(values(x.reshape({-1})), values(x));
  EXPECT_EQ(x.reshape({2, -1, 3}).raw(), x.raw());
  EXPECT_THROW(x.reshape({5, 5}), Error);
  EXPECT_THROW(x.reshape({-1, -1}), Error);
  EXPECT_THROW(x.reshape({7, -1}), Error);
  EXPECT_THROW(x.transpose(0, 1).reshape({24}), Error);
}

TEST(Tensor, WithoutElementsIsLegal) {
  Context ctx;
  const Tensor x = ctx.zeros({0, 5}, DType::kF32);
  EXPECT_TRUE(x.defined());
  EXPECT_EQ(x.numel(), 0);
  EXPECT_EQ(x.num_bytes(), 0);
  EXPECT_TRUE(x.is_contiguous());
  EXPECT_EQ(x.reshape({5, -1}).shape(), (Shape{5, 0}));
  EXPECT_EQ(x.transpose(0, 1).contiguous().shape(), (Shape{5, 0}));
  EXPECT_EQ(x.clone().to(DType::kBF16).shape(), (Shape{0, 5}));
  ctx.zeros({2, 5}, DType::kF32).slice(0, 2, 0).copy_from(x);
}

TEST(Tensor, OfRankZeroHoldsOneElement) {
  Context ctx;
  const Tensor x = ctx.empty({}, DType::kF64);
  EXPECT_EQ(x.numel(), 1);
  *x.data<double>() = 2.5;
  EXPECT_EQ(*x.to(DType::kF32).data<float>(), 2.5f);
}

TEST(Tensor, FromCopiesValuesOfEveryType) {
  Context ctx;
  const std::vector<int64_t> values = {-1, std::numeric_limits<int64_t>::max()};
  const Tensor x = Tensor::from<int64_t>(ctx.memory, {2}, values);
  EXPECT_EQ(x.dtype(), DType::kI64);
  EXPECT_EQ(x.data<int64_t>()[1], values[1]);
  EXPECT_THROW(Tensor::from<int64_t>(ctx.memory, {3}, values), Error);
  EXPECT_THROW(x.data<double>(), Error);
}

TEST(Tensor, RefusesBadShapesDimensionsAndUndefinedTensors) {
  Context ctx;
  const int64_t big = int64_t{1} << 40;
  for (const Shape& shape :
       std::vector<Shape>{{-1, 4}, {big, big}, {0, big, big}, {big, big, 0}, {big, 1 << 23, 2}}) {
    EXPECT_THROW(num_elements(shape), Error) << shape_string(shape);
    EXPECT_THROW(ctx.empty(shape, DType::kU8), Error) << shape_string(shape);
  }
  // 2^62 elements fit 64 bits, their bytes do not.
  EXPECT_THROW(ctx.empty({big, 1 << 22}, DType::kF32), Error);
  const Tensor x = ctx.zeros({2, 3}, DType::kF32);
  EXPECT_EQ(x.dim(-1), 3);
  EXPECT_THROW(x.dim(2), Error);
  EXPECT_THROW(x.dim(-3), Error);
  EXPECT_THROW(x.slice(0, 1, 2), Error);
  EXPECT_THROW(x.slice(0, -1, 1), Error);
  EXPECT_THROW(x.slice(1, 3, std::numeric_limits<int64_t>::max()), Error);
  EXPECT_THROW(x.transpose(0, 2), Error);
  EXPECT_THROW(x.copy_from(ctx.zeros({3, 2}, DType::kF32)), Error);
  EXPECT_THROW(x.to(DType::kI32), Error);
  EXPECT_THROW(Tensor().raw(), Error);
  EXPECT_THROW(Tensor().memory(), Error);
}

TEST(Tensor, MoreMemoryThanExistsIsAnErrorThatNamesTheSizes) {
  Context ctx;
  const Tensor held = ctx.zeros({3, 1 << 20}, DType::kU8);
  for (const int64_t gib : {int64_t{1} << 26, int64_t{1} << 32})
    expect_error(ErrorCode::kOutOfMemory, {fmt::format("{}.0 MiB", gib << 10), "3.0 MiB"}, [&] {
      ctx.empty({gib, 1 << 30}, DType::kU8);
    });
  EXPECT_EQ(ctx.memory->live_bytes(), 3 << 20);
}

TEST(Tensor, StorageIsFreedWithItsLastView) {
  Context ctx;
  EXPECT_EQ(ctx.memory->live_bytes(), 0);
  {
    Tensor x = ctx.zeros({1 << 20}, DType::kU8);
    const Tensor view = x.slice(0, 5, 7);
    EXPECT_EQ(ctx.memory->live_bytes(), 1 << 20);
    x = Tensor();
    EXPECT_EQ(ctx.memory->live_bytes(), 1 << 20);
  }
  EXPECT_EQ(ctx.memory->live_bytes(), 0);
  EXPECT_EQ(ctx.memory->peak_bytes(), 1 << 20);
}

TEST(Tensor, MayOutliveItsContext) {
  Tensor survivor;
  {
    Context ctx;
    survivor = counting(ctx, {5});
  }
  EXPECT_EQ(values(survivor), (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

TEST(Tensor, HoldsMoreThanTwoToThe31Elements) {
  Context ctx;
  const int64_t rows = (int64_t{1} << 20) + 1, columns = 2049;
  const Tensor x = ctx.empty({rows, columns}, DType::kU8);
  ASSERT_GT(x.numel(), int64_t{1} << 31);
  uint8_t* data = x.data<uint8_t>();
  data[x.numel() - 1] = 7;
  data[x.numel() - columns] = 5;
  const Tensor last = x.slice(0, rows - 1, 1);
  EXPECT_EQ(last.raw() - x.raw(), (rows - 1) * columns);
  // One strided copy whose offsets all lie beyond 2^31 - 1.
  const Tensor ends = last.transpose(0, 1).contiguous();
  EXPECT_EQ(ends.data<uint8_t>()[0], 5);
  EXPECT_EQ(ends.data<uint8_t>()[columns - 1], 7);
  // And one over the whole extent of the slow dimension.
  const Tensor column = ctx.empty({rows, 1}, DType::kU8);
  column.copy_from(x.slice(1, columns - 1, 1));
  EXPECT_EQ(column.data<uint8_t>()[rows - 1], 7);
}

TEST(Tensor, BorrowedElementsAreThoseOfEveryViewUntilTheyAreGivenBack) {
  const auto memory = std::make_shared<Memory>();
  const Tensor tensor = Tensor::without_elements(memory, {2, 3}, DType::kF32);
  const Tensor row = tensor.slice(0, 1, 1);
  EXPECT_EQ(memory->live_bytes(), 0);
  EXPECT_THROW(row.raw(), Error);
  for (const float first : {1.0f, 7.0f}) {
    Tensor lender = Tensor::zeros(memory, {4, 3}, DType::kF32);
    for (int i = 0; i < 12; ++i) lender.data<float>()[i] = first + static_cast<float>(i);
    tensor.borrow(lender.slice(0, 2, 2));
    EXPECT_EQ(row.data<float>()[2], first + 11);
    lender = Tensor();
    EXPECT_EQ(row.data<float>()[0], first + 9);  // kept
    tensor.give_back();
    EXPECT_THROW(row.raw(), Error);
    EXPECT_EQ(memory->live_bytes(), 0);
  }
  EXPECT_THROW(tensor.borrow(Tensor::zeros(memory, {5}, DType::kF32)), Error);
  EXPECT_THROW(tensor.borrow(Tensor::zeros(memory, {2, 3}, DType::kI32)), Error);
  EXPECT_THROW(Tensor::zeros(memory, {6}, DType::kF32).give_back(), Error);
}

}  // namespace
}  // namespace longship
