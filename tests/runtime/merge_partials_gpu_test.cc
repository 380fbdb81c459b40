// Merging of partial attention on a GPU against the CPU's in fp64.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "runtime/ops/merge_partials.h"
#include "tests/support/expect_error.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bf16_values;
using testing::copy_on;
using testing::on_host;
using testing::poisoned_gpu;
using testing::relative_rms;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Rows {
  Tensor o_THV, lse_TH;
};

// Every fifth row saw no key: its lse is -inf, and its o is never read.
Rows rows(const Shape& shape, uint64_t seed, int64_t empty_row) {
  Rows result{bf16_values(shape, seed), bf16_values({shape[0], shape[1]}, seed + 1, 4.0)};
  for (int64_t row = empty_row; row < result.lse_TH.numel(); row += 5)
    result.lse_TH.data<double>()[row] = -kInfinity;
  return result;
}

// What is merged into a row with keys where the other has none must not be read.
Tensor with_nan_where_empty(const Rows& side) {
  const Tensor o_THV = side.o_THV.clone();
  const int64_t V = o_THV.dim(2);
  for (int64_t row = 0; row < side.lse_TH.numel(); ++row)
    if (side.lse_TH.data<double>()[row] == -kInfinity)
      for (int64_t v = 0; v < V; ++v) o_THV.data<double>()[row * V + v] = std::nan("");
  return o_THV;
}

double lse_error(const Tensor& found, const Tensor& exact) {
  const Tensor host = on_host(found);
  double worst = 0;
  for (int64_t i = 0; i < host.numel(); ++i) {
    const double a = host.data<float>()[i], b = exact.data<double>()[i];
    if (a != b) worst = std::max(worst, std::abs(a - b));
  }
  return worst;
}

TEST(MergePartialsOnGpu, EqualsTheCpuInEveryMixOfDtypes) {
  const Context gpu = poisoned_gpu(), cpu;
  const Shape shapes[] = {{67, 4, 128}, {67, 3, 64}, {31, 2, 96}, {31, 2, 192}, {31, 2, 256},
                          {31, 3, 512}, {13, 3, 5},  {1, 1, 1},   {0, 2, 64},   {2011, 7, 128}};
  for (const Shape& shape : shapes) {
    // No row is empty on both sides: the one begins at row 1, the other at row 3.
    const Rows first = rows(shape, 10, 1), second = rows(shape, 20, 3);
    const Tensor exact_o = first.o_THV.clone(), exact_lse = first.lse_TH.clone();
    merge_partials(cpu, exact_o, exact_lse, second.o_THV, second.lse_TH);
    for (DType part_dtype : {DType::kF32, DType::kBF16}) {
      const Tensor part = copy_on(gpu, with_nan_where_empty(second), part_dtype);
      const Tensor part_lse = copy_on(gpu, second.lse_TH, DType::kF32);
      const std::string name =
          fmt::format("part in {} {}", dtype_name(part_dtype), shape_string(shape));
      const Tensor o = copy_on(gpu, with_nan_where_empty(first), DType::kF32);
      const Tensor lse = copy_on(gpu, first.lse_TH, DType::kF32);
      merge_partials(gpu, o, lse, part, part_lse);
      EXPECT_LE(relative_rms(on_host(o), exact_o), 1e-6) << name;
      EXPECT_LE(lse_error(lse, exact_lse), 4e-6) << name;
      for (DType o_dtype : {DType::kF32, DType::kBF16}) {
        const Tensor from = copy_on(gpu, with_nan_where_empty(first), o_dtype);
        const Tensor from_lse = copy_on(gpu, first.lse_TH, DType::kF32);
        const Tensor out = gpu.empty(shape, DType::kBF16);
        merge_partials_into(gpu, out, from, from_lse, part, part_lse);
        EXPECT_LE(relative_rms(on_host(out), exact_o), 4e-3) << name;
        EXPECT_LE(lse_error(from_lse, exact_lse), 4e-6) << name;
        // The same as to merge in fp32 and then to round.
        if (o_dtype == DType::kF32) {
          EXPECT_TRUE(testing::bitwise_equal(on_host(out), on_host(o.to(DType::kBF16)))) << name;
        }
      }
    }
  }
}

TEST(MergePartialsOnGpu, OfTwoEmptySidesStaysEmpty) {
  const Context gpu = poisoned_gpu();
  const float empty[] = {-kInfinity, -kInfinity};
  const Tensor lse = Tensor::from<float>(gpu.memory, {1, 2}, empty);
  const Tensor o = gpu.zeros({1, 2, 8}, DType::kF32), out = gpu.empty({1, 2, 8}, DType::kBF16);
  const Tensor part = gpu.empty({1, 2, 8}, DType::kBF16);  // NaN
  merge_partials_into(gpu, out, o, lse, part, lse.clone());
  EXPECT_EQ(relative_rms(on_host(out), on_host(o)), 0);
  EXPECT_EQ(on_host(lse).data<float>()[1], -kInfinity);
}

TEST(MergePartialsOnGpu, SurvivesLogSumsThatExpCannotHold) {
  const Context gpu = poisoned_gpu();
  auto merged = [&](float lse_a, float lse_b) {
    const float one[] = {1.0f}, zero[] = {0.0f};
    const Tensor o = Tensor::from<float>(gpu.memory, {1, 1, 1}, one);
    const Tensor lse = Tensor::from<float>(gpu.memory, {1, 1}, {&lse_a, 1});
    merge_partials(gpu, o, lse, Tensor::from<float>(gpu.memory, {1, 1, 1}, zero),
                   Tensor::from<float>(gpu.memory, {1, 1}, {&lse_b, 1}));
    return std::pair(on_host(o).data<float>()[0], on_host(lse).data<float>()[0]);
  };
  EXPECT_EQ(merged(1000, 900), std::pair(1.0f, 1000.0f));
  EXPECT_EQ(merged(-900, 900), std::pair(0.0f, 900.0f));
  EXPECT_EQ(merged(-kInfinity, 3), std::pair(0.0f, 3.0f));
  EXPECT_EQ(merged(3, -kInfinity), std::pair(1.0f, 3.0f));
  EXPECT_TRUE(std::isnan(merged(std::nanf(""), 1).first));
  EXPECT_TRUE(std::isnan(merged(1, std::nanf("")).first));
}

TEST(MergePartialsOnGpu, RefusesFp64) {
  const Context gpu = poisoned_gpu();
  const Tensor o = gpu.zeros({1, 1, 8}, DType::kF64), lse = gpu.zeros({1, 1}, DType::kF64);
  testing::expect_error(ErrorCode::kInternal, {"fp64"},
                        [&] { merge_partials(gpu, o, lse, o.clone(), lse.clone()); });
}

}  // namespace
}  // namespace longship
