// Parameters shared out over ranks: values, sums of gradients, bytes, and who has what when.
// ranks: 1 2 3 4 8
#include "parallel/sharded_parameters.h"

#include <gtest/gtest.h>

#include <cstring>

#include "optim/gradient_norm.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/mpi_main.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::world;

constexpr ZeroStage kStages[] = {ZeroStage::kOptimizer, ZeroStage::kGradients,
                                 ZeroStage::kParameters};

// Units begin at parameters 0, 1 and 6: an embedding, a block, a head.
const std::vector<size_t> kUnitBegins = {0, 1, 6};
const std::vector<Shape> kShapes = {{300, 250}, {7}, {1}, {257, 130}, {3, 3}, {0, 4}, {200, 400}};

void add_parameters(ParameterList& parameters) {
  for (size_t n = 0; n < kShapes.size(); ++n)
    parameters.add(fmt::format("p{}", n), kShapes[n], {.a = 1}, true,
                   n == 4 ? Precision::kMaster : Precision::kCompute);
}

float value(int rank, size_t parameter, int micro_batch, int64_t i) {
  return static_cast<float>(normal(static_cast<uint64_t>(micro_batch),
                                   static_cast<uint64_t>(rank) * 100 + parameter,
                                   static_cast<uint64_t>(i)));
}

// Rank r has no gradient of parameter r + 1, and nobody has one of parameter 2.
bool has_gradient(int rank, size_t parameter) {
  return parameter != 2 && parameter != static_cast<size_t>(rank) + 1;
}

class Sharded {
 public:
  Sharded(ZeroStage stage, DType dtype) : parameters(ParameterList::without_values(ctx, dtype, 9)) {
    ctx.memory->set_poison(true);
    add_parameters(parameters);
    exchange.emplace(ctx, parameters, kUnitBegins, world(), stage);
  }

  void add_gradient(size_t n, int micro_batch) {
    if (!has_gradient(world().rank(), n)) return;
    Gradient& gradient = *parameters.all()[n].variable.gradient();
    const Tensor values = ctx.empty(kShapes[n], DType::kF32);
    for (int64_t i = 0; i < values.numel(); ++i)
      values.data<float>()[i] = value(world().rank(), n, micro_batch, i);
    gradient.add(ctx, values);
  }

  // As a backward does it: the head, the block, and the embedding without being told.
  void backward(int micro_batch, bool is_last) {
    exchange->begin_micro_batch(is_last);
    add_gradient(6, micro_batch);
    exchange->end_backward(ctx, 2);
    exchange->begin_backward(ctx, 1);
    for (size_t n = 5; n > 0; --n) add_gradient(n, micro_batch);
    exchange->end_backward(ctx, 1);
    add_gradient(0, micro_batch);
    exchange->end_micro_batch();
  }

  Context ctx;
  ParameterList parameters;
  std::optional<ShardedParameters> exchange;
};

TEST(ShardedParameters, GiveOpsTheValuesOfAnOrdinaryList) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const ZeroStage stage : kStages) {
      Context plain_ctx;
      ParameterList plain(plain_ctx, dtype, 9);
      add_parameters(plain);
      Sharded sharded(stage, dtype);
      for (int round = 0; round < 2; ++round)
        for (size_t unit = 0; unit < 3; ++unit) {
          sharded.exchange->begin_forward(sharded.ctx, unit);
          const size_t end = unit < 2 ? kUnitBegins[unit + 1] : kShapes.size();
          for (size_t n = kUnitBegins[unit]; n < end; ++n)
            EXPECT_TRUE(testing::bitwise_equal(sharded.parameters.all()[n].variable.value(),
                                               plain.all()[n].variable.value()))
                << "parameter " << n << ", stage " << static_cast<int>(stage);
          sharded.exchange->end_forward(sharded.ctx, unit);
        }
    }
}

TEST(ShardedParameters, HaveNoValuesOutsideOfTheirUse) {
  Sharded sharded(ZeroStage::kParameters, DType::kF32);
  const Tensor head = sharded.parameters.all()[6].variable.value();
  const Tensor row = head.slice(0, 3, 1);  // what an op keeps for its backward
  const auto touch = [&] { row.raw(); };
  testing::expect_error(ErrorCode::kInternal, {"has none now"}, touch);
  sharded.exchange->begin_forward(sharded.ctx, 2);
  const std::vector<float> before(row.data<float>(), row.data<float>() + 400);
  sharded.exchange->end_forward(sharded.ctx, 2);
  testing::expect_error(ErrorCode::kInternal, {"has none now"}, touch);
  sharded.exchange->begin_backward(sharded.ctx, 2);
  EXPECT_EQ(std::memcmp(row.data<float>(), before.data(), 1600), 0);
}

TEST(ShardedParameters, ShareOutEveryElementOnce) {
  Sharded sharded(ZeroStage::kParameters, DType::kBF16);
  for (const Parameter& parameter : sharded.parameters.all()) {
    const int64_t held = parameter.master.numel();
    EXPECT_EQ(world().all_reduce_value("test", held, ReduceOp::kSum),
              parameter.variable.value().numel());
    if (held > 0) {
      EXPECT_EQ(parameter.first_element % kPieceElements, 0);
    }
  }
}

// Of one element, in the order in which a stage adds.
float expected_sum(ZeroStage stage, size_t n, int num_micro_batches, int64_t i) {
  const auto of_rank = [&](int rank, int micro_batch) {
    return has_gradient(rank, n) ? value(rank, n, micro_batch, i) : 0.0f;
  };
  float sum = 0;
  if (stage == ZeroStage::kOptimizer) {
    for (int rank = 0; rank < world().size(); ++rank) {
      float own = 0;
      for (int m = 0; m < num_micro_batches; ++m) own += of_rank(rank, m);
      sum += own;
    }
    return sum;
  }
  for (int m = 0; m < num_micro_batches; ++m) {
    float of_batch = 0;
    for (int rank = 0; rank < world().size(); ++rank) of_batch += of_rank(rank, m);
    sum += of_batch;
  }
  return sum;
}

TEST(ShardedParameters, SumGradientsInTheOrderOfRanks) {
  for (const ZeroStage stage : kStages)
    for (const int num_micro_batches : {1, 3}) {
      Sharded sharded(stage, DType::kBF16);
      for (int step = 0; step < 2; ++step) {
        sharded.exchange->begin_step();
        for (int m = 0; m < num_micro_batches; ++m) sharded.backward(m, m + 1 == num_micro_batches);
        sharded.exchange->finish_gradients();
      }
      for (size_t n = 0; n < kShapes.size(); ++n) {
        const Parameter& parameter = sharded.parameters.all()[n];
        EXPECT_FALSE(parameter.variable.gradient()->defined()) << "parameter " << n;
        const float* found = parameter.gradient->sum().data<float>();
        for (int64_t i = 0; i < parameter.master.numel(); ++i)
          ASSERT_EQ(found[i],
                    expected_sum(stage, n, num_micro_batches, parameter.first_element + i))
              << "parameter " << n << "[" << i << "], stage " << static_cast<int>(stage);
      }
    }
}

TEST(ShardedParameters, HaveTheNormAndTheNameOfTheWholeGradient) {
  Context plain_ctx;
  ParameterList plain(plain_ctx, DType::kF32, 9);
  add_parameters(plain);
  for (size_t n = 0; n < kShapes.size(); ++n) {
    const Tensor sum = plain.all()[n].variable.gradient()->accumulate_into(plain_ctx);
    for (int64_t i = 0; i < sum.numel(); ++i)
      sum.data<float>()[i] = expected_sum(ZeroStage::kGradients, n, 1, i);
  }
  Sharded sharded(ZeroStage::kGradients, DType::kF32);
  sharded.exchange->begin_step();
  sharded.backward(0, true);
  sharded.exchange->finish_gradients();
  const Group& sharers = sharded.exchange->sharers();
  EXPECT_EQ(gradient_norm(sharded.ctx, sharded.parameters, sharers),
            gradient_norm(plain_ctx, plain));
  EXPECT_EQ(first_non_finite(sharded.ctx, sharded.parameters, sharers), "");
  const Parameter& bad = sharded.parameters.all()[3];
  if (bad.master.numel() > 0 && bad.first_element == 0)
    bad.gradient->sum().data<float>()[0] = std::nanf("");
  EXPECT_EQ(first_non_finite(sharded.ctx, sharded.parameters, sharers), "p3");
}

TEST(ShardedParameters, SendTheirShareOfEveryUnitOnce) {
  Sharded sharded(ZeroStage::kParameters, DType::kF32);
  world().reset_stats();
  sharded.exchange->begin_step();
  sharded.backward(0, true);
  sharded.exchange->finish_gradients();
  // The block is gathered for the backward; the flat tensor of a unit is a little longer than its
  // parameters.
  int64_t held = 0, held_of_block = 0, all = 0;
  for (size_t n = 0; n < kShapes.size(); ++n) {
    const Parameter& parameter = sharded.parameters.all()[n];
    all += parameter.variable.value().numel();
    held += parameter.master.numel();
    if (n > 0 && n < 6) held_of_block += parameter.master.numel();
  }
  constexpr int64_t kGaps = 4 * 128 * 4;
  const int64_t others = world().size() - 1;
  EXPECT_NEAR(static_cast<double>(world().stats().sent_bytes("gradients")),
              static_cast<double>(4 * (all - held)), others > 0 ? kGaps : 0);
  EXPECT_NEAR(static_cast<double>(world().stats().sent_bytes("parameters")),
              static_cast<double>(4 * others * held_of_block), static_cast<double>(others * kGaps));
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
