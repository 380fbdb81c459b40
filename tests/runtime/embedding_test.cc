#include "runtime/ops/embedding.h"

#include <gtest/gtest.h>

#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::random_tensor;

testing::OpFunction lookup(std::vector<int32_t> ids) {
  return [ids = std::move(ids)](Context& ctx, const std::vector<Variable>& inputs) {
    const Tensor ids_T = Tensor::from<int32_t>(ctx.memory, {static_cast<int64_t>(ids.size())}, ids);
    return std::vector<Variable>{embedding(ctx, inputs[0], ids_T)};
  };
}

// Skewed as text is: half of the tokens are id 0.
std::vector<int32_t> text_like(int64_t count, uint64_t vocabulary) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < count; ++t) {
    const uint64_t index = static_cast<uint64_t>(t);
    ids.push_back(uniform(1, 1, index) < 0.5
                      ? 0
                      : static_cast<int32_t>(uniform_index(1, 2, index, vocabulary)));
  }
  return ids;
}

TEST(Embedding, CopiesRows) {
  Context ctx;
  const Tensor table = random_tensor(ctx, {5, 3}, 1);
  const Tensor y = lookup({4, 0, 4})(ctx, {table})[0].value();
  EXPECT_TRUE(testing::bitwise_equal(y.slice(0, 0, 1), table.slice(0, 4, 1)));
  EXPECT_TRUE(testing::bitwise_equal(y.slice(0, 1, 1), table.slice(0, 0, 1)));
  EXPECT_TRUE(testing::bitwise_equal(y.slice(0, 2, 1), table.slice(0, 4, 1)));
}

TEST(Embedding, GradientsEqualCentralDifferences) {
  Context ctx;
  testing::check_gradients(lookup({2, 2, 0, 4, 2}), {random_tensor(ctx, {6, 3}, 2)});
}

TEST(Embedding, GradientEqualsAPlainSumInTokenOrder) {
  Context ctx;
  for (int64_t E : {1, 255, 257, 600}) {
    const std::vector<int32_t> ids = text_like(1001, 37);
    const testing::OpResult result =
        testing::run_op(lookup(ids), {random_tensor(ctx, {37, E}, 3)}, DType::kBF16);
    const Tensor dy = random_tensor(ctx, {1001, E}, 1000).to(DType::kBF16).to(DType::kF64);
    const Tensor expected = ctx.zeros({37, E}, DType::kF64);
    for (int64_t t = 0; t < 1001; ++t)
      for (int64_t e = 0; e < E; ++e)
        expected.data<double>()[ids[static_cast<size_t>(t)] * E + e] +=
            dy.data<double>()[t * E + e];
    EXPECT_EQ(result.gradients[0].dtype(), DType::kF32);
    EXPECT_LE(testing::relative_rms(result.gradients[0], expected), 3e-7) << E;
  }
}

TEST(Embedding, IsPreciseAndIndependentOfThreads) {
  Context ctx;
  const testing::OpFunction op = lookup(text_like(3001, 50));
  testing::check_precision(op, {random_tensor(ctx, {50, 300}, 4)});
  testing::check_thread_invariance(op, {random_tensor(ctx, {50, 300}, 5)});
}

TEST(Embedding, OfNoTokensWorks) {
  Context ctx;
  const testing::OpResult result =
      testing::run_op(lookup({}), {random_tensor(ctx, {5, 3}, 6)}, DType::kF32);
  EXPECT_EQ(result.outputs[0].shape(), (Shape{0, 3}));
  EXPECT_EQ(testing::relative_rms(result.gradients[0], ctx.zeros({5, 3}, DType::kF32)), 0);
}

TEST(Embedding, RefusesIdsOutsideTheTable) {
  Context ctx;
  ctx.scope = "embedding";
  const Tensor table = random_tensor(ctx, {5, 3}, 7);
  testing::expect_error(ErrorCode::kCorrupt, {"embedding: ", "[0, 5)", "id 5 at token 2"}, [&] {
    lookup({0, 4, 5})(ctx, {table});
  });
  testing::expect_error(ErrorCode::kCorrupt, {"id -1 at token 0"}, [&] {
    lookup({-1, 9})(ctx, {table});
  });
}

}  // namespace
}  // namespace longship
