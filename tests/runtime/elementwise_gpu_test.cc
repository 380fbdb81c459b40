// Ops that compute each element from those at the same place, on a GPU against the CPU's in fp64,
// with poisoned outputs.
#include <gtest/gtest.h>

#include "runtime/gpu.h"
#include "runtime/ops/add.h"
#include "runtime/ops/reshape.h"
#include "runtime/ops/scale.h"
#include "runtime/ops/sigmoid_gate.h"
#include "runtime/ops/silu.h"
#include "runtime/ops/split.h"
#include "runtime/ops/swiglu.h"
#include "tests/support/expect_error.h"
#include "tests/support/gpu_check.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::OpFunction;
using testing::poisoned_gpu;
using testing::random_tensor;

struct NamedOp {
  const char* name;
  int num_inputs;
  OpFunction function;
};

const std::vector<NamedOp>& ops() {
  using Inputs = std::vector<Variable>;
  static const std::vector<NamedOp> all = {
      {"add", 2, [](Context& ctx, const Inputs& in) { return Inputs{add(ctx, in[0], in[1])}; }},
      {"scale", 1, [](Context& ctx, const Inputs& in) { return Inputs{scale(ctx, in[0], -1.7)}; }},
      {"silu", 1, [](Context& ctx, const Inputs& in) { return Inputs{silu(ctx, in[0])}; }},
      {"sigmoid_gate", 2,
       [](Context& ctx, const Inputs& in) { return Inputs{sigmoid_gate(ctx, in[0], in[1])}; }},
      {"swiglu", 2,
       [](Context& ctx, const Inputs& in) { return Inputs{swiglu(ctx, in[0], in[1])}; }}};
  return all;
}

std::vector<Tensor> inputs_of(const NamedOp& op, const Shape& shape, double scale = 2.0) {
  Context ctx;
  std::vector<Tensor> inputs;
  for (int i = 0; i < op.num_inputs; ++i)
    inputs.push_back(random_tensor(ctx, shape, 10 + static_cast<uint64_t>(i), scale));
  return inputs;
}

TEST(ElementwiseOnGpu, EqualsTheCpuAtEverySize) {
  const Context gpu = poisoned_gpu();
  for (const NamedOp& op : ops())
    for (const Shape& shape : {Shape{1}, Shape{7}, Shape{8}, Shape{1021}, Shape{2048}, Shape{2049},
                               Shape{0, 64}, Shape{67, 129}, Shape{33, 4, 40}, Shape{1000, 1037}}) {
      SCOPED_TRACE(op.name);
      testing::check_on_gpu(gpu, op.function, inputs_of(op, shape));
    }
}

// The same value at another address, one element after one that is a multiple of 16 bytes.
Variable shifted(Context& ctx, const Variable& x) {
  const Tensor buffer = ctx.empty({x.value().numel() + 1}, x.dtype());
  const Tensor value = buffer.slice(0, 1, x.value().numel()).reshape(x.shape());
  value.copy_from(x.value());
  return Variable(value, x.gradient());
}

TEST(ElementwiseOnGpu, TakesInputsThatAreNotAligned) {
  const Context gpu = poisoned_gpu();
  for (const NamedOp& op : ops()) {
    SCOPED_TRACE(op.name);
    auto function = [&](Context& ctx, const std::vector<Variable>& in) {
      std::vector<Variable> moved;
      for (const Variable& x : in) moved.push_back(shifted(ctx, x));
      return op.function(ctx, moved);
    };
    testing::check_on_gpu(gpu, function, inputs_of(op, {67, 129}));
  }
}

// Where e^x overflows, and where a sigmoid is 0 or 1.
TEST(ElementwiseOnGpu, StaysFiniteAtLargeInputs) {
  const Context gpu = poisoned_gpu();
  for (const NamedOp& op : ops()) {
    SCOPED_TRACE(op.name);
    const testing::OpResult result =
        testing::run_op(op.function, inputs_of(op, {40, 100}, 300.0), DType::kF32, gpu);
    Context cpu;
    for (const Tensor& tensor : result.outputs) check_finite(cpu, op.name, tensor);
    for (const Tensor& tensor : result.gradients) check_finite(cpu, op.name, tensor);
  }
}

TEST(ElementwiseOnGpu, RefusesFp64) {
  const Context gpu = gpu_context(0);
  for (const NamedOp& op : ops())
    testing::expect_error(ErrorCode::kInternal, {"fp64"}, [&] {
      testing::run_op(op.function, inputs_of(op, {3, 5}), DType::kF64, gpu);
    });
}

TEST(SplitOnGpu, AndJoinAndReshapeMoveElementsOnly) {
  const Context gpu = poisoned_gpu();
  Context cpu;
  for (const std::vector<int64_t>& sizes :
       {std::vector<int64_t>{3, 0, 5}, {64, 16, 16}, {1, 1030}, {256, 8, 1}}) {
    int64_t total = 0;
    for (int64_t size : sizes) total += size;
    auto function = [&](Context& ctx, const std::vector<Variable>& in) {
      std::vector<Variable> parts = split(ctx, in[0], sizes);
      std::swap(parts.front(), parts.back());
      const Variable joined = join(ctx, parts);
      parts.push_back(reshape(ctx, joined, {-1}));
      return parts;
    };
    const std::vector<Tensor> inputs = {random_tensor(cpu, {37, 3, total}, 5)};
    testing::check_on_gpu(gpu, function, inputs);
  }
}

TEST(GradientOnGpu, SumsInPlaceOnlyWhereNothingElseViewsTheSum) {
  Context gpu = poisoned_gpu();
  Context cpu;
  const Tensor a = random_tensor(cpu, {1029}, 1).to(DType::kF32);
  const Tensor b = random_tensor(cpu, {1029}, 2).to(DType::kF32);
  const Tensor once = cpu.empty({1029}, DType::kF32), twice = cpu.empty({1029}, DType::kF32);
  for (int64_t i = 0; i < 1029; ++i) {
    once.data<float>()[i] = a.data<float>()[i] + b.data<float>()[i];
    twice.data<float>()[i] = once.data<float>()[i] + b.data<float>()[i];
  }
  Gradient gradient({1029}, DType::kF32);
  gradient.add(gpu, upload(gpu, a));
  const std::byte* const first = gradient.sum().address();
  gradient.add(gpu, upload(gpu, b));
  EXPECT_EQ(gradient.sum().address(), first);
  const Tensor view = gradient.sum();
  gradient.add(gpu, upload(gpu, b));
  EXPECT_TRUE(testing::bitwise_equal(view.to(cpu.memory), once));
  EXPECT_TRUE(testing::bitwise_equal(gradient.sum().to(cpu.memory), twice));
}

}  // namespace
}  // namespace longship
