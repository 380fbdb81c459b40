// Gradients summed over ranks, whatever the buckets.
// ranks: 1 2 3 4 8
#include "parallel/gradient_reduction.h"

#include <gtest/gtest.h>

#include "runtime/random.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::world;

float value(int rank, size_t parameter, int64_t i) {
  return static_cast<float>(
      normal(3, static_cast<uint64_t>(rank) * 100 + parameter, static_cast<uint64_t>(i)));
}

// Rank r has no gradient for parameter r + 1, and nobody has one for parameter 0.
bool has_gradient(int rank, size_t parameter) {
  return parameter != 0 && parameter != static_cast<size_t>(rank) + 1;
}

void fill_gradients(Context& ctx, ParameterList& parameters) {
  parameters.clear_gradients();
  size_t n = 0;
  for (Parameter& parameter : parameters.all()) {
    if (has_gradient(world().rank(), n)) {
      float* data = parameter.variable.gradient()->accumulate_into(ctx).data<float>();
      for (int64_t i = 0; i < parameter.master.numel(); ++i) data[i] = value(world().rank(), n, i);
    }
    ++n;
  }
}

class Gradients : public ::testing::Test {
 protected:
  Gradients() : parameters_(ctx_, DType::kBF16, 1) {
    const std::vector<Shape> shapes = {{7},      {33, 5}, {1},  {100, 40}, {3, 3},
                                       {64, 64}, {11},    {12}, {2000},    {0, 4}};
    for (size_t n = 0; n < shapes.size(); ++n)
      parameters_.add(fmt::format("p{}", n), shapes[n], {}, true);
  }

  Context ctx_;
  ParameterList parameters_;
};

TEST_F(Gradients, AreTheSumInRankOrderForEveryBucketSize) {
  // Buckets of one element, of a few small parameters, and of everything.
  for (const int64_t bucket_bytes : {int64_t{4}, int64_t{1000}, int64_t{16} << 20}) {
    fill_gradients(ctx_, parameters_);
    GradientReduction(ctx_, parameters_, world(), {.bucket_bytes = bucket_bytes}).finish();
    size_t n = 0;
    for (const Parameter& parameter : parameters_.all()) {
      const Gradient& gradient = *parameter.variable.gradient();
      ASSERT_TRUE(gradient.defined());
      ASSERT_EQ(gradient.dtype(), DType::kF32);
      for (int64_t i = 0; i < parameter.master.numel(); ++i) {
        float expected = 0;
        for (int rank = 0; rank < world().size(); ++rank)
          if (has_gradient(rank, n)) expected += value(rank, n, i);
        ASSERT_EQ(gradient.sum().data<float>()[i], expected) << parameter.name << "[" << i << "]";
      }
      ++n;
    }
  }
}

TEST_F(Gradients, HandedOverInPartsGiveTheSameBits) {
  const auto sums = [&](std::initializer_list<size_t> borders) {
    fill_gradients(ctx_, parameters_);
    GradientReduction reduction(ctx_, parameters_, world(), {.bucket_bytes = 1000});
    for (size_t first : borders) reduction.begin_from(first);
    reduction.finish();
    std::vector<std::vector<float>> values;
    for (const Parameter& parameter : parameters_.all()) {
      const Tensor& sum = parameter.variable.gradient()->sum();
      values.emplace_back(sum.data<float>(), sum.data<float>() + sum.numel());
    }
    return values;
  };
  const auto at_once = sums({});
  EXPECT_EQ(sums({7, 4, 4, 1}), at_once);
  EXPECT_EQ(sums({9, 8, 7, 6, 5, 4, 3, 2, 1, 0}), at_once);
}

TEST_F(Gradients, SendTwiceTheirBytesLessOneShare) {
  fill_gradients(ctx_, parameters_);
  world().reset_stats();
  GradientReduction(ctx_, parameters_, world()).finish();
  const int64_t count = parameters_.num_elements(), size = world().size(), rank = world().rank();
  const int64_t chunk = count * (rank + 1) / size - count * rank / size;
  EXPECT_EQ(world().stats().sent_bytes("gradients"),
            size == 1 ? 0 : (count - chunk + (size - 1) * chunk) * 4);
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
