#include "runtime/autograd/recompute.h"

#include <gtest/gtest.h>

#include "runtime/ops/add.h"
#include "runtime/ops/linear.h"
#include "runtime/ops/rms_norm.h"
#include "runtime/ops/swiglu.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::random_tensor;
using testing::TapeContext;

constexpr int64_t kTokens = 37, kHidden = 9, kWide = 23;
constexpr int kLayers = 4;

// The weights of one feed-forward layer: norm, gate, up, down.
struct Layer {
  Variable norm_E, gate_FE, up_FE, down_EF;

  Layer(Context& ctx, DType dtype, uint64_t seed) {
    auto leaf = [&](Shape shape, uint64_t stream) {
      return Variable::leaf(
          random_tensor(ctx, std::move(shape), 10 * seed + stream, 0.5).to(dtype));
    };
    norm_E = leaf({kHidden}, 1);
    gate_FE = leaf({kWide, kHidden}, 2);
    up_FE = leaf({kWide, kHidden}, 3);
    down_EF = leaf({kHidden, kWide}, 4);
  }

  Variable operator()(Context& ctx, const Variable& x) const {
    const Variable y = rms_norm(ctx, x, norm_E, 1e-5);
    const Variable wide = swiglu(ctx, linear(ctx, y, gate_FE), linear(ctx, y, up_FE));
    return add(ctx, x, linear(ctx, wide, down_EF));
  }
};

struct Result {
  std::vector<Tensor> tensors;  // output, then gradients
  int64_t saved_bytes = 0;
  int64_t peak_bytes = 0;
};

Result run(DType dtype, bool with_recompute) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  ctx.num_threads = 2;
  const Variable x = Variable::leaf(random_tensor(ctx, {kTokens, kHidden}, 1).to(dtype));
  std::vector<Layer> layers;
  for (int i = 0; i < kLayers; ++i) layers.emplace_back(ctx, dtype, i + 1);
  const int64_t before = ctx.memory->live_bytes();
  ctx.memory->reset_peak();
  Variable y = x;
  for (const Layer& layer : layers) y = with_recompute ? recompute(ctx, layer, y) : layer(ctx, y);
  // A use of x outside the blocks, whose gradient arrives first.
  y = add(ctx, y, x);
  Result result;
  result.saved_bytes = ctx.memory->live_bytes() - before;
  result.tensors.push_back(y.value());
  recorded.tape.backward(ctx, y, random_tensor(ctx, y.shape(), 2).to(dtype));
  result.peak_bytes = ctx.memory->peak_bytes() - before;
  EXPECT_EQ(ctx.tape, &recorded.tape);
  result.tensors.push_back(x.gradient()->sum());
  for (const Layer& layer : layers)
    for (const Variable& weight : {layer.norm_E, layer.gate_FE, layer.up_FE, layer.down_EF})
      result.tensors.push_back(weight.gradient()->sum());
  return result;
}

TEST(Recompute, GivesTheSameBitsAsKeepingEverything) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const Result kept = run(dtype, false), recomputed = run(dtype, true);
    ASSERT_EQ(kept.tensors.size(), recomputed.tensors.size());
    for (size_t i = 0; i < kept.tensors.size(); ++i)
      EXPECT_TRUE(bitwise_equal(kept.tensors[i], recomputed.tensors[i]))
          << "tensor " << i << " in " << dtype_name(dtype);
  }
}

TEST(Recompute, KeepsOnlyTheInputsOfBlocks) {
  const Result kept = run(DType::kF32, false), recomputed = run(DType::kF32, true);
  // Each block but the first keeps one new tensor, and the output stays; blocks are rounded up.
  const int64_t hidden_bytes = kTokens * kHidden * 4;
  EXPECT_LE(recomputed.saved_bytes, kLayers * (hidden_bytes + 63));
  EXPECT_GT(kept.saved_bytes, 5 * recomputed.saved_bytes);
  EXPECT_LT(recomputed.peak_bytes, kept.peak_bytes);
}

TEST(Recompute, SavesOneTensorByName) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Layer layer(ctx, DType::kF64, 1);
  const Variable x = Variable::leaf(random_tensor(ctx, {kTokens, kHidden}, 1));
  recompute(ctx, layer, x);
  std::string seen;
  recorded.tape.visit_saved([&](std::string_view node, std::string_view name, Tensor& tensor) {
    seen += fmt::format("{}.{}{} ", node, name, shape_string(tensor.shape()));
  });
  EXPECT_EQ(seen, fmt::format("recompute.x[{}, {}] ", kTokens, kHidden));
}

TEST(KeptOutputs, AreTakenAheadOfTheOpsThatWouldComputeThem) {
  Context ctx;
  auto filled = [&](double value) {
    const Tensor tensor = ctx.empty({1}, DType::kF64);
    *tensor.data<double>() = value;
    return std::vector{tensor};
  };
  auto value = [](const std::vector<Tensor>& outputs) { return *outputs.at(0).data<double>(); };
  auto never = []() -> std::vector<Tensor> { throw std::logic_error("computed twice"); };
  KeptOutputs outer(Recompute::kBlock, nullptr);
  ctx.kept = &outer;
  EXPECT_TRUE(computed_before(ctx, KeptOp::kAttention).empty());
  computed_once(ctx, KeptOp::kMatmul, [&] { return filled(0); });  // not kept by this level
  computed_once(ctx, KeptOp::kAttention, [&] { return filled(1); });
  computed_once(ctx, KeptOp::kAttention, [&] { return filled(2); });
  outer.begin_second_run(filled(2)[0]);

  // A block within, in its first run, keeps what the outer one kept.
  KeptOutputs inner(Recompute::kSelective, &outer);
  ctx.kept = &inner;
  EXPECT_EQ(value(computed_before(ctx, KeptOp::kAttention)), 1);
  EXPECT_TRUE(computed_before(ctx, KeptOp::kMatmul).empty());
  EXPECT_EQ(value(computed_once(ctx, KeptOp::kMatmul, [&] { return filled(3); })), 3);
  EXPECT_EQ(value(computed_once(ctx, KeptOp::kAttention, never)), 2);
  inner.begin_second_run(filled(2)[0]);
  EXPECT_EQ(value(computed_once(ctx, KeptOp::kAttention, never)), 1);
  EXPECT_EQ(value(computed_before(ctx, KeptOp::kAttention)), 2);
  EXPECT_EQ(value(computed_before(ctx, KeptOp::kMatmul)), 3);
  EXPECT_THROW(computed_before(ctx, KeptOp::kAttention), Error);
}

TEST(KeptOutputs, TheOutputOfABlockIsNotComputedAgain) {
  Context ctx;
  int num_computed = 0;
  auto product = [&] {
    return computed_once(ctx, KeptOp::kMatmul, [&] {
      ++num_computed;
      return std::vector{ctx.empty({1}, DType::kF64)};
    })[0];
  };
  KeptOutputs of_last(Recompute::kBlock, nullptr), of_first(Recompute::kBlock, nullptr);
  for (KeptOutputs* kept : {&of_last, &of_first}) {
    SCOPED_TRACE(kept == &of_last ? "the last product" : "the first, not the last");
    ctx.kept = kept;
    const Tensor first = product(), last = product();
    const Tensor y = kept == &of_last ? last : first;
    kept->begin_second_run(y);
    num_computed = 0;
    EXPECT_NE(product().address(), first.address());
    EXPECT_EQ(num_computed, 1);
    const Tensor again = product();
    EXPECT_EQ(num_computed, kept == &of_last ? 1 : 2);
    EXPECT_EQ(again.address() == y.address(), kept == &of_last);
  }
}

TEST(Recompute, GradientsEqualCentralDifferencesWhenNested) {
  Context ctx;
  const Layer layer(ctx, DType::kF64, 1);
  testing::check_gradients(
      [&](Context& outer, const std::vector<Variable>& in) {
        return std::vector<Variable>{recompute(
            outer,
            [&](Context& middle, const Variable& x) {
              return recompute(middle, layer, layer(middle, x));
            },
            in[0])};
      },
      {random_tensor(ctx, {5, kHidden}, 1)});
}

TEST(Recompute, OfAConstantStillReachesTheParametersInside) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Layer layer(ctx, DType::kF64, 1);
  const Variable y = recompute(ctx, layer, random_tensor(ctx, {3, kHidden}, 1));
  recorded.tape.backward(ctx, y, random_tensor(ctx, {3, kHidden}, 2));
  EXPECT_TRUE(layer.down_EF.gradient()->defined());
}

TEST(Recompute, WithoutATapeRunsTheBlockOnce) {
  Context ctx;
  int runs = 0;
  const Variable x(random_tensor(ctx, {3}, 1));
  recompute(
      ctx,
      [&](Context&, const Variable& in) {
        ++runs;
        return in;
      },
      x);
  EXPECT_EQ(runs, 1);
}

TEST(Recompute, AFailureInTheSecondRunLeavesTheContextUsable) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  int runs = 0;
  const Variable x = Variable::leaf(random_tensor(ctx, {3}, 1));
  const Variable y = recompute(
      ctx,
      [&](Context& inner, const Variable& in) {
        if (++runs == 2) throw Error(ErrorCode::kTimeout, {.what = "rank 1 is silent"});
        return add(inner, in, in);
      },
      x);
  testing::expect_error(ErrorCode::kTimeout, {"rank 1 is silent"},
                        [&] { recorded.tape.backward(ctx, y, random_tensor(ctx, {3}, 2)); });
  EXPECT_EQ(ctx.tape, &recorded.tape);
  EXPECT_EQ(recorded.tape.num_nodes(), 0u);
}

}  // namespace
}  // namespace longship
