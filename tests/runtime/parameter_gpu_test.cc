// Parameters on a GPU have the values of those on the CPU.
#include <gtest/gtest.h>

#include "runtime/model/parameter.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::on_host;

TEST(ParameterListOnGpu, HasTheValuesOfTheCpu) {
  Context gpu = testing::poisoned_gpu(), cpu;
  cpu.num_threads = gpu.num_threads = 4;
  using Kind = Initializer::Kind;
  for (DType compute : {DType::kF32, DType::kBF16}) {
    ParameterList a(gpu, compute, 5), b(cpu, compute, 5);
    for (ParameterList* list : {&a, &b}) {
      list->add("normal", {129, 257}, {Kind::kNormal, 0.02}, true);
      list->add("constant", {5}, {Kind::kConstant, 1.5}, false);
      list->add("logs", {33}, {Kind::kLogOfUniform, 1, 16}, false, Precision::kMaster);
      list->add("steps", {33}, {Kind::kInverseSoftplus, 1e-3, 0.1}, false, Precision::kMaster);
      list->add("none", {0, 3}, {}, true);
      // More than one piece of the way over the host.
      list->add("long", {(1 << 24) + 5}, {Kind::kUniform, -1, 1}, true);
    }
    for (size_t n = 0; n < a.all().size(); ++n) {
      const Parameter &x = a.all()[n], &y = b.all()[n];
      EXPECT_EQ(x.variable.value().device().kind, DeviceKind::kCuda);
      EXPECT_TRUE(bitwise_equal(on_host(x.master), y.master)) << x.name;
      EXPECT_TRUE(bitwise_equal(on_host(x.variable.value()), y.variable.value())) << x.name;
    }
  }
}

}  // namespace
}  // namespace longship
