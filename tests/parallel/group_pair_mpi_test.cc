// What needs exactly one peer: transfers in the background, and messages that do not fit.
// ranks: 2
#include <gtest/gtest.h>

#include <chrono>

#include "parallel/group.h"
#include "runtime/seconds_since.h"
#include "tests/support/expect_error.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::world;

const std::shared_ptr<Memory> kMemory = std::make_shared<Memory>();

TEST(GroupPair, TransfersWhileTheCallersCompute) {
  const Group group = world();
  const int peer = 1 - group.rank();
  constexpr int64_t kBytes = int64_t{64} << 20;
  const Tensor send = Tensor::zeros(kMemory, {kBytes}, DType::kU8);
  const Tensor receive = Tensor::zeros(kMemory, {kBytes}, DType::kU8);
  const Tensor sum = Tensor::zeros(kMemory, {kBytes / 8}, DType::kF64);
  send.data<uint8_t>()[kBytes - 1] = 7;
  group.barrier("test.start");
  group.reset_stats();
  Work exchange =
      group.exchange("test.exchange", {P2P::send(peer, send), P2P::receive(peer, receive)});
  Work reduction = group.all_reduce("test.reduction", sum);  // two stages, the second on its own
  // The caller only computes; normally the transfers take a tenth of a second.
  const auto begin = std::chrono::steady_clock::now();
  volatile double sink = 0;
  while (!(exchange.done() && reduction.done()) && seconds_since(begin) < 20)
    for (int i = 0; i < 100000; ++i) sink = sink + 1.0;
  EXPECT_TRUE(exchange.done());
  EXPECT_TRUE(reduction.done());
  exchange.wait();
  reduction.wait();
  EXPECT_EQ(group.stats().wait_s, 0);
  EXPECT_EQ(receive.data<uint8_t>()[kBytes - 1], 7);
}

TEST(GroupPair, WaitingIsCountedWhereItHappens) {
  const Group group = world();
  const Tensor tensor = Tensor::zeros(kMemory, {1}, DType::kF32);
  group.barrier("test.start");
  group.reset_stats();
  const auto begin = std::chrono::steady_clock::now();
  if (group.rank() == 0) {
    while (std::chrono::steady_clock::now() - begin < std::chrono::milliseconds(200)) continue;
    group.exchange("test.late", {P2P::send(1, tensor)}).wait();
  } else {
    group.exchange("test.late", {P2P::receive(0, tensor)}).wait();
    EXPECT_GT(group.stats().wait_s, 0.1);
  }
}

TEST(GroupPair, MessagesOfUnexpectedLengthAreErrors) {
  const Group group = world();
  const int peer = 1 - group.rank();
  const Tensor small = Tensor::zeros(kMemory, {10}, DType::kF32);
  const Tensor large = Tensor::zeros(kMemory, {11}, DType::kF32);
  auto exchange = [&](const Tensor& sent, const Tensor& received) {
    group.exchange("test.length", {P2P::send(peer, sent), P2P::receive(peer, received)}).wait();
  };
  const std::string sender = std::to_string(peer);
  testing::expect_error(ErrorCode::kInternal,
                        {"`test.length`", "rank " + sender + " sent 40 bytes where 44"},
                        [&] { exchange(small, large); });
  testing::expect_error(ErrorCode::kInternal,
                        {"`test.length`", "rank " + sender + " sent more than the 40 bytes"},
                        [&] { exchange(large, small); });
  // The group goes on.
  EXPECT_EQ(group.all_reduce_value("test.after", int64_t{1}, ReduceOp::kSum), 2);
}

TEST(GroupPair, WorkLetsGoOfItsTensorsWhenDone) {
  const Group group = world();
  const Tensor message = Tensor::zeros(kMemory, {3}, DType::kF32);
  const Tensor sum = Tensor::zeros(kMemory, {5000}, DType::kF32);
  const int64_t live = kMemory->live_bytes();
  Work exchange = group.exchange("test.release", {P2P::send(group.rank(), message),
                                                  P2P::receive(group.rank(), message.clone())});
  Work reduction = group.all_reduce("test.release", sum);
  exchange.wait();
  reduction.wait();
  EXPECT_TRUE(message.is_unique());
  EXPECT_TRUE(sum.is_unique());
  EXPECT_EQ(kMemory->live_bytes(), live);
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
