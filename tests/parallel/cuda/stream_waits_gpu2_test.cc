// What a GPU's compute stream waits for the other one, by each transport: counted where it stood
// still, and nowhere else.
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "parallel/cuda/gpu_runtime.h"
#include "runtime/seconds_since.h"
#include "tests/support/mpi_main.h"
#include "tests/support/stream_gate.h"

namespace longship {
namespace {

using testing::StreamGate;
using testing::world;

constexpr auto kDelay = std::chrono::milliseconds(60);
constexpr double kDelayS = 0.06;
constexpr double kSomeMoments = 5e-3;  // for what a test does beside its delay

class StandingStill : public ::testing::TestWithParam<TransportWish> {
 protected:
  StandingStill()
      : runtime_(testing::mpi(), {.transports = GetParam(), .timeout_s = 60}),
        group_(runtime_.world()),
        message_(runtime_.context().zeros({1 << 20}, DType::kF32)) {
    send_from_1_to_0().wait();  // connects
    start();
  }
  void TearDown() override {
    compute().synchronize();
    world().barrier("test.end");
  }

  const Stream& compute() const { return *runtime_.context().gpu->compute; }
  static bool receives() { return world().rank() == 0; }

  Work send_from_1_to_0() const {
    const P2P part = receives() ? P2P::receive(1, message_) : P2P::send(0, message_);
    return group_.exchange("test", {part});
  }
  // Rank 1's part, while rank 0 is at the same barrier.
  void send_from_a_late_gpu() const {
    StreamGate gate(compute());
    send_from_1_to_0();
    world().barrier("test.waiting");
    std::this_thread::sleep_for(kDelay);
  }
  // Both ranks at the same time, with nothing to do and nothing counted.
  void start() {
    compute().synchronize();
    world().barrier("test.start");
    group_.reset_stats();
    begin_ = std::chrono::steady_clock::now();
  }
  double counted_s() const { return group_.stats().stream_wait_s; }
  double elapsed_s() const { return seconds_since(begin_); }
  // What was counted since start() is the delay, and not more than there was time.
  void expect_delay() const {
    compute().synchronize();
    EXPECT_GT(counted_s(), kDelayS - kSomeMoments);
    EXPECT_LE(counted_s(), elapsed_s());
  }

  GpuRuntime runtime_;
  Group group_;
  Tensor message_;
  std::chrono::steady_clock::time_point begin_;
};

TEST_P(StandingStill, ForAGpuThatIsLateIsCounted) {
  if (receives()) {
    send_from_1_to_0().wait();
    group_.reset_stats();
    EXPECT_EQ(counted_s(), 0);  // it is not over
    world().barrier("test.waiting");
    expect_delay();
  } else {
    send_from_a_late_gpu();
  }
}

TEST_P(StandingStill, ForAHostThatIsLateIsCounted) {
  if (!receives()) std::this_thread::sleep_for(kDelay);
  send_from_1_to_0().wait();
  if (receives()) expect_delay();
}

TEST_P(StandingStill, ForAValueThatIsLateIsCounted) {
  if (!receives()) std::this_thread::sleep_for(kDelay);
  group_.barrier("test");
  if (receives()) expect_delay();
}

TEST_P(StandingStill, IsNotBusyWithOtherWorkMeanwhile) {
  if (receives()) {
    Work work = send_from_1_to_0();
    StreamGate gate(compute());  // stands for work that takes longer
    EXPECT_FALSE(work.done());
    work.wait();
    group_.reset_stats();  // what the host waited for the other one's call
    world().barrier("test.waiting");
    while (!work.done() && elapsed_s() < 10) std::this_thread::yield();
    EXPECT_TRUE(work.done());
    gate.open();
    compute().synchronize();
    EXPECT_LT(counted_s(), kSomeMoments);
  } else {
    send_from_a_late_gpu();
  }
}

TEST_P(StandingStill, IsNotAHostThatWaitsWhileItsGpuWorks) {
  StreamGate gate(compute());
  if (!receives()) std::this_thread::sleep_for(kDelay);
  group_.barrier("test");
  gate.open();
  compute().synchronize();
  EXPECT_LT(counted_s(), kSomeMoments);
}

// A peer is late for each of many pairs of messages, which are waited for in either order.
TEST_P(StandingStill, IsCountedOnce) {
  constexpr int kMessages = 5;
  for (int i = 0; i < kMessages; ++i) {
    if (!receives()) std::this_thread::sleep_for(kDelay / 2);
    Work first = send_from_1_to_0(), second = send_from_1_to_0();
    second.wait();
    first.wait();
    compute().synchronize();
  }
  if (!receives()) return;
  EXPECT_GT(counted_s(), kMessages * (kDelayS / 2 - kSomeMoments));
  EXPECT_LE(counted_s(), elapsed_s());
}

INSTANTIATE_TEST_SUITE_P(Transports, StandingStill,
                         ::testing::Values(TransportWish::kPeerCopies, TransportWish::kNccl));

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
