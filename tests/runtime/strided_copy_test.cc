#include "runtime/strided_copy.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>

#include "runtime/context.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

template <class T>
T element(const Tensor& tensor, const Shape& index) {
  int64_t offset = 0;
  for (size_t i = 0; i < index.size(); ++i) offset += index[i] * tensor.strides()[i];
  return tensor.data<T>()[offset];
}

template <class F>
void for_each_index(const Shape& shape, F&& f) {
  for (int64_t linear = 0; linear < num_elements(shape); ++linear) {
    Shape index(shape.size());
    int64_t rest = linear;
    for (size_t i = shape.size(); i-- > 0;) {
      index[i] = rest % shape[i];
      rest /= shape[i];
    }
    f(index);
  }
}

// A view of the given shape with permuted strides, inside a tensor that is larger on every side.
Tensor scattered_view(Context& ctx, const Shape& shape, std::vector<int> order, DType dtype) {
  Shape stored(shape.size());
  for (size_t i = 0; i < order.size(); ++i) stored[i] = shape[static_cast<size_t>(order[i])] + 2;
  Tensor view = ctx.zeros(stored, dtype);
  for (size_t i = 0; i < order.size(); ++i)
    view = view.slice(static_cast<int>(i), 1, stored[i] - 2);
  // Brings dimension order[i] of the result, now at i, to its place.
  for (size_t i = 0; i < order.size(); ++i)
    while (order[i] != static_cast<int>(i)) {
      const auto other = static_cast<size_t>(order[i]);
      view = view.transpose(static_cast<int>(i), order[i]);
      std::swap(order[i], order[other]);
    }
  return view;
}

TEST(StridedCopy, CopiesEveryPermutationAndNothingElse) {
  Context ctx;
  const Shape shape = {3, 1, 9, 17};
  std::vector<int> to_order = {0, 1, 2, 3};
  do {
    std::vector<int> from_order = {0, 1, 2, 3};
    do {
      const Tensor from = scattered_view(ctx, shape, from_order, DType::kI64);
      const Tensor to = scattered_view(ctx, shape, to_order, DType::kI64);
      ASSERT_EQ(from.shape(), shape);
      int64_t next = 1, sum = 0;
      for_each_index(shape, [&](const Shape& index) {
        int64_t offset = 0;
        for (size_t i = 0; i < index.size(); ++i) offset += index[i] * from.strides()[i];
        from.data<int64_t>()[offset] = next;
        sum += next++;
      });
      to.copy_from(from);
      bool equal = true;
      for_each_index(shape, [&](const Shape& index) {
        equal &= element<int64_t>(to, index) == element<int64_t>(from, index);
        sum -= element<int64_t>(to, index);
      });
      ASSERT_TRUE(equal);
      ASSERT_EQ(sum, 0);
    } while (std::next_permutation(from_order.begin(), from_order.end()));
  } while (std::next_permutation(to_order.begin(), to_order.end()));
}

TEST(StridedCopy, LeavesTheSurroundingsOfAViewAlone) {
  Context ctx;
  const Tensor whole = ctx.zeros({5, 40, 41}, DType::kF32);
  const Tensor inside = whole.slice(0, 1, 3).slice(1, 2, 37).slice(2, 3, 35);
  const Tensor ones = ctx.empty({35, 37, 3}, DType::kF32);
  std::fill_n(ones.data<float>(), ones.numel(), 1.0f);
  inside.copy_from(ones.transpose(0, 2));
  auto total = [&] {
    double sum = 0;
    for (int64_t i = 0; i < whole.numel(); ++i) sum += whole.data<float>()[i];
    return sum;
  };
  EXPECT_EQ(total(), 3 * 37 * 35);
  std::fill_n(whole.data<float>(), whole.numel(), 1.0f);
  inside.fill_zero();
  EXPECT_EQ(total(), 5 * 40 * 41 - 3 * 37 * 35);
  for_each_index(inside.shape(),
                 [&](const Shape& index) { ASSERT_EQ(element<float>(inside, index), 0.0f); });
}

TEST(StridedCopy, ConvertsBetweenFloatingTypesInAnyLayout) {
  Context ctx;
  const Shape shape = {19, 35};
  const Tensor source = ctx.empty(shape, DType::kF64);
  for (int64_t i = 0; i < source.numel(); ++i)
    source.data<double>()[i] = normal(1, 2, static_cast<uint64_t>(i));
  for (const DType from_type : {DType::kF64, DType::kF32, DType::kBF16})
    for (const DType to_type : {DType::kF64, DType::kF32, DType::kBF16})
      for (const std::vector<int>& order : {std::vector<int>{0, 1}, {1, 0}}) {
        const Tensor from = scattered_view(ctx, shape, order, from_type);
        from.copy_from(source);
        const Tensor to = from.to(to_type);
        EXPECT_TRUE(to_type == from_type || to.is_contiguous());
        for_each_index(shape, [&](const Shape& index) {
          // What a value becomes on its way through the two types, element by element.
          auto through = [](double value, DType dtype) {
            return dispatch_floating(dtype, [&](auto tag) {
              using T = decltype(tag);
              return static_cast<double>(static_cast<T>(static_cast<Accumulator<T>>(value)));
            });
          };
          const double expected =
              through(through(element<double>(source, index), from_type), to_type);
          const double found = dispatch_floating(to_type, [&](auto tag) {
            return static_cast<double>(element<decltype(tag)>(to, index));
          });
          ASSERT_EQ(found, expected);
        });
      }
}

TEST(StridedCopy, RefusesToConvertIntegers) {
  Context ctx;
  const Tensor ids = ctx.zeros({3}, DType::kI32);
  for (const DType dtype : {DType::kF32, DType::kI64, DType::kU8})
    testing::expect_error(ErrorCode::kInternal, {"i32"}, [&] { ids.to(dtype); });
}

TEST(StridedCopy, LargeCopiesAreTheSameOnAnyNumberOfThreads) {
  Context ctx;
  const Tensor source = ctx.empty({67, 53, 129}, DType::kF32);
  for (int64_t i = 0; i < source.numel(); ++i) source.data<float>()[i] = static_cast<float>(i);
  const int before = omp_get_max_threads();
  for (const int num_threads : {1, 2, 5}) {
    omp_set_num_threads(num_threads);
    const Tensor turned = source.transpose(0, 2).contiguous();
    const Tensor moved = source.transpose(0, 1).contiguous();
    bool equal = true;
    for_each_index(source.shape(), [&](const Shape& i) {
      equal &= element<float>(turned, {i[2], i[1], i[0]}) == element<float>(source, i);
      equal &= element<float>(moved, {i[1], i[0], i[2]}) == element<float>(source, i);
    });
    EXPECT_TRUE(equal) << num_threads;
  }
  omp_set_num_threads(before);
}

}  // namespace
}  // namespace longship
