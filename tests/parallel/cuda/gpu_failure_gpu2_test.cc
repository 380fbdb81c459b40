// A rank whose peer does not come, or whose peer's GPU does not: it ends with an error that names
// label, rank and GPU, and its GPU is not left waiting.
#include <gtest/gtest.h>

#include "parallel/cuda/gpu_runtime.h"
#include "parallel/mpi_group.h"
#include "tests/support/mpi_main.h"
#include "tests/support/stream_gate.h"

namespace longship {
namespace {

using testing::StreamGate;
using testing::world;

class SilentPeer : public ::testing::TestWithParam<TransportWish> {
 protected:
  SilentPeer()
      : bystander_(world().split(0, world().rank())),
        runtime_(testing::mpi(), {.transports = GetParam(), .timeout_s = 60}),
        out_(runtime_.context().zeros({1 << 20}, DType::kF32)),
        in_(runtime_.context().zeros({1 << 20}, DType::kF32)) {
    exchange().wait();  // connects
    runtime_.context().gpu->compute->synchronize();
    bystander_.barrier("test.connected");
    if (is_victim()) runtime_.set_timeout(1);
  }

  // No rank leaves before the other is done with its memory. Operations that only the victim has
  // begun are counted here by the other rank as well: the next test goes on with the world of MPI,
  // whose messages match by that number.
  void TearDown() override {
    const int64_t most = bystander_.all_reduce_value("test.end", num_begun_, ReduceOp::kMax);
    for (; num_begun_ < most; ++num_begun_) testing::mpi().world_backend()->skip_operation();
  }

  static bool is_victim() { return world().rank() == 0; }
  Work exchange() {
    ++num_begun_;
    const int peer = 1 - world().rank();
    return runtime_.world().exchange("test.late", {P2P::send(peer, out_), P2P::receive(peer, in_)});
  }
  void expect_timeout(const Error& error) const {
    EXPECT_EQ(error.code(), ErrorCode::kTimeout);
    const std::string text = error.what();
    EXPECT_NE(text.find("`test.late`"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 0 (GPU 0)"), std::string::npos) << text;
    EXPECT_NE(text.find("rank 1 of the job"), std::string::npos) << text;
  }

  Group bystander_;  // that no operation is missing from
  GpuRuntime runtime_;
  Tensor out_, in_;
  int64_t num_begun_ = 0;
};

TEST_P(SilentPeer, ThatMakesNoCallIsNamed) {
  if (is_victim()) {
    try {
      exchange().wait();
      // NCCL does not wait for the peer's host.
      runtime_.context().gpu->compute->synchronize();
      exchange();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      expect_timeout(error);
    }
    runtime_.context().gpu->compute->synchronize();
    EXPECT_THROW(runtime_.world().split(0, 0), Error);
  }
}

TEST_P(SilentPeer, WhoseGpuIsStuckIsNamed) {
  const Gpu& gpu = *runtime_.context().gpu;
  if (is_victim()) {
    Work work = exchange();
    work.wait();
    gpu.compute->synchronize();  // comes back when the deadline has passed
    try {
      exchange();
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      expect_timeout(error);
    }
    bystander_.barrier("test.named");
  } else {
    {
      StreamGate gate(*gpu.compute);
      Work work = exchange();
      bystander_.barrier("test.named");
      runtime_.set_timeout(1);  // the other rank may have given up its side of it
    }
    gpu.communication->synchronize();
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, SilentPeer,
                         ::testing::Values(TransportWish::kPeerCopies, TransportWish::kNccl));

TEST(GpuOfRank, IsItsOwn) {
  const GpuRuntime runtime(testing::mpi(), {.transports = TransportWish::kPeerCopies});
  EXPECT_EQ(runtime.context().gpu->device.index, world().rank());
  EXPECT_EQ(runtime.transports(), "peer copies for all messages");
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
