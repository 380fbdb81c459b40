// The differentiable collectives: values against what each rank can compute, and backwards against
// central differences of a scalar that is summed over all ranks.
// ranks: 1 2 3 4 8
#include "parallel/collective_ops.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::random_tensor;
using testing::TapeContext;
using testing::world;

using Function = std::function<Variable(Context&, const Variable&)>;

double dot(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  return sum;
}

double over_ranks(double value) {
  return world().all_reduce_value("test.sum", value, ReduceOp::kSum);
}

// This rank's part of x, the sum over ranks of <weights, f(x)>, and its derivative by the backward
// and by central differences in every element of every rank's x.
void check_against_central_differences(const Function& f, Shape x_shape) {
  const Group group = world();
  TapeContext recorded;
  const auto rank_seed = static_cast<uint64_t>(group.rank());
  const Tensor x = random_tensor(recorded.ctx, std::move(x_shape), 100 + rank_seed);
  const Variable leaf = Variable::leaf(x.clone());
  const Variable y = f(recorded.ctx, leaf);
  const Tensor weights = random_tensor(recorded.ctx, y.shape(), 200 + rank_seed);
  ASSERT_TRUE(y.requires_grad());
  recorded.tape.backward(recorded.ctx, y, weights.clone());
  const Tensor gradient = leaf.gradient()->sum();
  ASSERT_EQ(gradient.shape(), x.shape());

  // The transpose of a linear map, checked as a whole and tightly.
  const double forward_side = over_ranks(dot(weights, y.value()));
  const double backward_side = over_ranks(dot(gradient, x));
  EXPECT_NEAR(forward_side, backward_side, 1e-11 * (1 + std::abs(forward_side)));

  Context plain;
  for (int owner = 0; owner < group.size(); ++owner) {
    const bool mine = owner == group.rank();
    const int64_t count =
        group.all_reduce_value("test.count", mine ? x.numel() : int64_t{0}, ReduceOp::kMax);
    for (int64_t i = 0; i < count; ++i) {
      auto evaluate = [&](double step) {
        const Tensor moved = x.clone();
        if (mine) moved.data<double>()[i] += step;
        return over_ranks(dot(weights, f(plain, moved).value()));
      };
      const double step = 1e-4;
      const double numeric = (evaluate(step) - evaluate(-step)) / (2 * step);
      if (mine) {
        EXPECT_NEAR(gradient.data<double>()[i], numeric, 1e-8) << "element " << i;
      }
    }
  }
}

int64_t uneven_rows(int a, int b) {
  return (a + 2 * b) % 3;
}

// Rows per rank: 2 1 0 2 1 0 ...
std::vector<int64_t> rows_of_ranks() {
  std::vector<int64_t> rows;
  for (int rank = 0; rank < world().size(); ++rank) rows.push_back((2 * rank + 2) % 3);
  return rows;
}

int64_t total(const std::vector<int64_t>& rows) {
  int64_t sum = 0;
  for (int64_t count : rows) sum += count;
  return sum;
}

TEST(AllToAll, BackwardIsTheAllToAllBack) {
  std::vector<int64_t> send, receive;
  for (int peer = 0; peer < world().size(); ++peer) {
    send.push_back(uneven_rows(world().rank(), peer));
    receive.push_back(uneven_rows(peer, world().rank()));
  }
  world().reset_stats();
  check_against_central_differences(
      [&](Context& ctx, const Variable& x) {
        return all_to_all(ctx, world(), "test.a2a", x, send, receive);
      },
      {total(send), 2});
  // The gradient travels the way back: every row received from elsewhere returns once.
  const int64_t returning = total(receive) - receive[static_cast<size_t>(world().rank())];
  EXPECT_EQ(world().stats().sent_bytes("test.a2a.grad"), returning * 2 * 8);
}

TEST(AllGather, BackwardSumsAndScatters) {
  const auto rows = rows_of_ranks();
  check_against_central_differences(
      [&](Context& ctx, const Variable& x) {
        return all_gather(ctx, world(), "test.gather", x, rows);
      },
      {rows[static_cast<size_t>(world().rank())], 3});
}

TEST(ReduceScatter, BackwardGathers) {
  const auto rows = rows_of_ranks();
  check_against_central_differences(
      [&](Context& ctx, const Variable& x) {
        return reduce_scatter(ctx, world(), "test.scatter", x, rows);
      },
      {total(rows), 3});
}

TEST(AllReduce, BackwardSumsOverRanks) {
  check_against_central_differences(
      [&](Context& ctx, const Variable& x) { return all_reduce(ctx, world(), "test.reduce", x); },
      {3, 2});
}

TEST(Broadcast, BackwardReducesToTheRoot) {
  for (int root = 0; root < world().size(); ++root)
    check_against_central_differences(
        [&](Context& ctx, const Variable& x) {
          return broadcast(ctx, world(), "test.broadcast", x, root);
        },
        {2, 2});
}

TEST(ExchangeRows, BackwardAddsRowsThatWereSentTwice) {
  // Every rank sends rows [1, 4) and [0, 2) to the next one and keeps row 2 for itself.
  const int size = world().size(), rank = world().rank();
  const int next = (rank + 1) % size, previous = (rank + size - 1) % size;
  const RowExchange plan = {.send = {{next, 1, 3}, {next, 0, 2}, {rank, 2, 1}},
                            .receive = {{previous, 1, 3}, {previous, 4, 2}, {rank, 0, 1}}};
  // In a group of one all messages are the rank's own, and still match in the order of listing.
  check_against_central_differences(
      [&](Context& ctx, const Variable& x) {
        return exchange_rows(ctx, world(), "test.rows", x, plan);
      },
      {5, 2});
}

TEST(ExchangeRows, FetchesHalosFromBothSides) {
  // y = the last row of the rank before, all own rows, the first row of the rank after.
  const int size = world().size(), rank = world().rank();
  Context ctx;
  const Tensor x = ctx.empty({3, 1}, DType::kF64);
  for (int i = 0; i < 3; ++i) x.data<double>()[i] = 10 * rank + i;
  RowExchange plan;
  std::vector<double> expected;
  if (rank > 0) {
    plan.send.push_back({rank - 1, 0, 1});
    plan.receive.push_back({rank - 1, 0, 1});
    expected.push_back(10 * (rank - 1) + 2);
  }
  plan.send.push_back({rank, 0, 3});
  plan.receive.push_back({rank, std::ssize(expected), 3});
  expected.insert(expected.end(), {10.0 * rank, 10.0 * rank + 1, 10.0 * rank + 2});
  if (rank + 1 < size) {
    plan.send.push_back({rank + 1, 2, 1});
    plan.receive.push_back({rank + 1, std::ssize(expected), 1});
    expected.push_back(10 * (rank + 1));
  }
  world().reset_stats();
  const Tensor y = exchange_rows(ctx, world(), "test.halo", x, plan).value();
  ASSERT_EQ(y.shape(), (Shape{std::ssize(expected), 1}));
  EXPECT_EQ(std::vector<double>(y.data<double>(), y.data<double>() + y.numel()), expected);
  EXPECT_EQ(world().stats().sent_bytes("test.halo"), 8 * ((rank > 0) + (rank + 1 < size)));
}

TEST(ExchangeRows, RefusesRowsThatLeaveAGap) {
  Context ctx;
  const Tensor x = ctx.zeros({4, 2}, DType::kF32);
  const int rank = world().rank();
  EXPECT_THROW(exchange_rows(ctx, world(), "bad", x, {{{rank, 0, 2}}, {{rank, 1, 2}}}), Error);
  EXPECT_THROW(exchange_rows(ctx, world(), "bad", x, {{{rank, 3, 2}}, {{rank, 0, 2}}}), Error);
  EXPECT_THROW(shift(ctx, world(), "bad", x, {.distance = world().size(), .receive_rows = 4}),
               Error);
}

TEST(Shift, BackwardIsTheReverseShift) {
  const int size = world().size(), rank = world().rank();
  for (const int distance : {1, -1, 2}) {
    for (const bool periodic : {true, false}) {
      const int from = rank - distance;
      const bool has_source = periodic || (from >= 0 && from < size);
      const int64_t receive_rows = has_source ? ((from % size + size) % size) % 3 : 0;
      check_against_central_differences(
          [&](Context& ctx, const Variable& x) {
            return shift(ctx, world(), "test.shift", x, {distance, periodic, receive_rows});
          },
          {rank % 3, 2});
    }
  }
}

TEST(CollectiveOps, ValuesAreThoseOfTheRanks) {
  const int size = world().size(), rank = world().rank();
  Context ctx;
  auto value_of = [&](int owner) {
    return random_tensor(ctx, {2, 3}, 300 + static_cast<uint64_t>(owner));
  };
  const Tensor x = value_of(rank);
  const Tensor sum = ctx.zeros({2, 3}, DType::kF64);
  for (int owner = 0; owner < size; ++owner)
    for (int64_t i = 0; i < 6; ++i) sum.data<double>()[i] += value_of(owner).data<double>()[i];
  EXPECT_EQ(testing::relative_rms(all_reduce(ctx, world(), "v", x).value(), sum), 0);
  EXPECT_EQ(
      testing::relative_rms(broadcast(ctx, world(), "v", x, size - 1).value(), value_of(size - 1)),
      0);
  EXPECT_EQ(testing::relative_rms(
                shift(ctx, world(), "v", x, {.periodic = true, .receive_rows = 2}).value(),
                value_of((rank + size - 1) % size)),
            0);
  const std::vector<int64_t> rows(static_cast<size_t>(size), 2);
  const Tensor all = all_gather(ctx, world(), "v", x, rows).value();
  for (int owner = 0; owner < size; ++owner)
    EXPECT_EQ(testing::relative_rms(all.slice(0, 2 * owner, 2), value_of(owner)), 0);
}

// Sums are taken in fp32 and rounded once: with bf16 steps of 1/128 around 1, adding 2^-9 eight
// times in bf16 would change nothing.
TEST(CollectiveOps, Bf16IsSummedInFp32) {
  Context ctx;
  const int size = world().size();
  const Tensor x = ctx.empty({1}, DType::kBF16);
  *x.data<bf16>() = bf16(world().rank() == 0 ? 1.0f : 0x1p-9f);
  const Tensor sum = all_reduce(ctx, world(), "v", x).value();
  EXPECT_EQ(static_cast<float>(*sum.data<bf16>()),
            static_cast<float>(bf16(1.0f + static_cast<float>(size - 1) * 0x1p-9f)));
  std::vector<int64_t> rows(static_cast<size_t>(size), 0);
  rows.back() = 1;
  const Tensor scattered = reduce_scatter(ctx, world(), "v", x, rows).value();
  if (world().rank() == size - 1) {
    EXPECT_EQ(static_cast<float>(*scattered.data<bf16>()), static_cast<float>(*sum.data<bf16>()));
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
