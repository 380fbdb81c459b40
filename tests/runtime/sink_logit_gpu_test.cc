// The learned sink logit on a GPU against the CPU's in fp64.
#include <gtest/gtest.h>

#include <limits>

#include "runtime/ops/sink_logit.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bf16_values;
using testing::copy_on;
using testing::on_host;
using testing::relative_rms;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(SinkLogitOnGpu, EqualsTheCpuForwardAndBackward) {
  const Context gpu = testing::poisoned_gpu(), cpu;
  const Shape shapes[] = {{67, 4, 128}, {67, 33, 64},  {31, 2, 96}, {13, 3, 5},  {1, 1, 1},
                          {0, 2, 64},   {3001, 5, 64}, {7, 3, 8},   {33, 2, 576}};
  for (const Shape& shape : shapes) {
    const int64_t T = shape[0], H = shape[1];
    const Tensor sink = bf16_values({H}, 1, 2.0), delta = bf16_values({T, H}, 4);
    const Tensor o = bf16_values(shape, 2), lse = bf16_values({T, H}, 3, 2.0);
    const Tensor exact_o = o.clone(), exact_lse = lse.clone();
    add_sink_logit(cpu, sink, exact_o, exact_lse);
    const Tensor exact_gradient = sink_logit_gradient(cpu, sink, exact_lse, delta);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const std::string name = fmt::format("{} {}", dtype_name(dtype), shape_string(shape));
      const Tensor gpu_sink = copy_on(gpu, sink, dtype), gpu_o = copy_on(gpu, o, dtype);
      const Tensor gpu_lse = copy_on(gpu, lse, DType::kF32);
      add_sink_logit(gpu, gpu_sink, gpu_o, gpu_lse);
      EXPECT_LE(relative_rms(on_host(gpu_o), exact_o), testing::relative_bound(dtype)) << name;
      EXPECT_LE(relative_rms(on_host(gpu_lse), exact_lse), 1e-6) << name;
      const Tensor gradient =
          sink_logit_gradient(gpu, gpu_sink, gpu_lse, copy_on(gpu, delta, DType::kF32));
      EXPECT_LE(relative_rms(on_host(gradient), exact_gradient), 1e-5) << name;
      const Tensor again =
          sink_logit_gradient(gpu, gpu_sink, gpu_lse, copy_on(gpu, delta, DType::kF32));
      EXPECT_TRUE(testing::bitwise_equal(on_host(again), on_host(gradient))) << name;
    }
  }
}

TEST(SinkLogitOnGpu, ARowWithoutKeysBelongsToTheSinkAndASinkOfWeightZeroToNoRow) {
  const Context gpu = testing::poisoned_gpu();
  const Context cpu;
  const double sinks[] = {0.5, -kInfinity, 1.5, -kInfinity};
  const double before[] = {-kInfinity, -kInfinity, 900, 2};
  const double after[] = {0.5, -kInfinity, 900, 2};
  const Tensor sink_H = copy_on(gpu, Tensor::from<double>(cpu.memory, {4}, sinks), DType::kF32);
  const Tensor lse_TH = copy_on(gpu, Tensor::from<double>(cpu.memory, {1, 4}, before), DType::kF32);
  const Tensor o_THV = copy_on(gpu, bf16_values({1, 4, 8}, 1), DType::kF32);
  const Tensor kept = on_host(o_THV);
  add_sink_logit(gpu, sink_H, o_THV, lse_TH);
  for (int64_t h = 0; h < 4; ++h)
    EXPECT_EQ(static_cast<double>(on_host(lse_TH).data<float>()[h]), after[h]) << h;
  EXPECT_TRUE(testing::bitwise_equal(on_host(o_THV), kept));
  const Tensor gradient = on_host(
      sink_logit_gradient(gpu, sink_H, lse_TH, copy_on(gpu, bf16_values({1, 4}, 2), DType::kF32)));
  for (int64_t h = 1; h < 4; ++h) EXPECT_EQ(gradient.data<float>()[h], 0) << h;
}

}  // namespace
}  // namespace longship
