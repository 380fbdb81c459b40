// The deadline and the length of messages, with options that make them matter.
// ranks: 2 4
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "parallel/mpi_runtime.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/mpi_main.h"

namespace longship {

// Long enough that MPI does not take a message before its receiver is there.
constexpr int64_t kPieceBytes = 100003;

namespace {

using testing::world;

const std::shared_ptr<Memory> kMemory = std::make_shared<Memory>();

// Exactly one piece, one byte more, many with an odd rest, and less than one.
TEST(MessagePieces, ArriveWholeAndInOrder) {
  const int size = world().size(), rank = world().rank();
  const int next = (rank + 1) % size, previous = (rank + size - 1) % size;
  auto byte = [](int from, int64_t length, int64_t i) {
    return static_cast<uint8_t>(philox(static_cast<uint64_t>(from), static_cast<uint64_t>(length),
                                       static_cast<uint64_t>(i))[0]);
  };
  std::vector<P2P> batch;
  std::vector<Tensor> received;
  const std::vector<int64_t> lengths = {kPieceBytes, kPieceBytes + 1, 1234577, 1, kPieceBytes - 1};
  for (const int64_t length : lengths) {
    const Tensor sent = Tensor::empty(kMemory, {length}, DType::kU8);
    for (int64_t i = 0; i < length; ++i) sent.data<uint8_t>()[i] = byte(rank, length, i);
    received.push_back(Tensor::zeros(kMemory, {length}, DType::kU8));
    batch.push_back(P2P::send(next, sent));
    batch.push_back(P2P::receive(previous, received.back()));
  }
  world().exchange("test.pieces", std::move(batch)).wait();
  for (size_t n = 0; n < lengths.size(); ++n)
    for (int64_t i = 0; i < lengths[n]; ++i)
      ASSERT_EQ(received[n].data<uint8_t>()[i], byte(previous, lengths[n], i));
}

TEST(MessagePieces, AreReducedLikeWholeMessages) {
  const Tensor tensor = Tensor::empty(kMemory, {300007}, DType::kI32);
  for (int32_t i = 0; i < 300007; ++i) tensor.data<int32_t>()[i] = i + world().rank();
  world().all_reduce("test.pieces", tensor).wait();
  const int32_t size = world().size();
  for (int32_t i = 0; i < 300007; ++i)
    ASSERT_EQ(tensor.data<int32_t>()[i], i * size + size * (size - 1) / 2);
}

TEST(Deadline, NamesOperationGroupAndTheRanksThatAreMissing) {
  // The odd ranks form a group in which rank 0 answers too late; elsewhere all is well.
  const Group group = world().split(world().rank() % 2, 0);
  const Group pair = world().split(world().rank() / 2, 0);
  const Tensor message = Tensor::zeros(kMemory, {1 << 20}, DType::kU8);
  if (pair.rank() == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(3000));
    pair.exchange("test.late", {P2P::send(1, message)}).wait();
  } else {
    world().reset_stats();
    Work work = pair.exchange("test.late", {P2P::receive(0, message)});
    EXPECT_FALSE(work.done());
    testing::expect_error(ErrorCode::kTimeout,
                          {"`test.late`", "a group of 2", "on rank 1", "no message from rank 0",
                           world().rank() == 3 ? "(rank 2 of the job)" : "", "within 2 s"},
                          [&] { work.wait(); });
    EXPECT_NEAR(world().stats().wait_s, 2.0, 0.5);
    // The operation is still on its way.
    work.wait();
    EXPECT_TRUE(work.done());
  }
  EXPECT_EQ(group.all_reduce_value("test.other", int64_t{1}, ReduceOp::kSum), group.size());
}

TEST(Deadline, NamesTheRankThatDoesNotTakeAMessage) {
  const Group pair = world().split(world().rank() / 2, 0);
  const Tensor large = Tensor::zeros(kMemory, {1 << 20}, DType::kU8);
  if (pair.rank() == 0) {
    Work work = pair.exchange("test.deaf", {P2P::send(1, large)});
    testing::expect_error(ErrorCode::kTimeout, {"`test.deaf`", "our message not taken by rank 1"},
                          [&] { work.wait(); });
    work.wait();
  } else {
    std::this_thread::sleep_for(std::chrono::milliseconds(3000));
    pair.exchange("test.deaf", {P2P::receive(0, large)}).wait();
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN({.timeout_s = 2, .max_message_bytes = longship::kPieceBytes})
