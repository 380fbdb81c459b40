#include "parallel/comm_recorder.h"

#include <gtest/gtest.h>

#include "parallel/group_backend.h"

namespace longship {
namespace {

// Learns of a quarter of a second whenever it is asked.
class LateCounter final : public Group::Backend {
 public:
  LateCounter() : Backend(0, 1, std::make_shared<CommRecorder>()) {}
  std::shared_ptr<Backend> split(int, int) override { return nullptr; }
  Work exchange(std::string_view, std::vector<P2P>) override { return Work(); }
  Work reduce_scatter(std::string_view, const Tensor&, const Tensor&,
                      std::span<const int64_t>) override {
    return Work();
  }
  Work all_reduce(std::string_view, const Tensor&, ReduceOp) override { return Work(); }
  void settle_counters() override { recorder().record_stream_wait(0.25); }
};

TEST(CommRecorder, KeepsWaitsOfHostAndStreamApart) {
  CommRecorder recorder;
  recorder.record_wait(1);
  recorder.record_stream_wait(2);
  recorder.record_wait(4);
  recorder.record_stream_wait(8);
  const CommStats stats = recorder.snapshot();
  EXPECT_EQ(stats.wait_s, 5);
  EXPECT_EQ(stats.stream_wait_s, 10);
  EXPECT_EQ(stats.wait_s_of(DeviceKind::kCpu), 5);
  EXPECT_EQ(stats.wait_s_of(DeviceKind::kCuda), 10);
  recorder.reset();
  EXPECT_EQ(recorder.snapshot().wait_s, 0);
  EXPECT_EQ(recorder.snapshot().stream_wait_s, 0);
}

TEST(CommRecorder, IsSettledBeforeItIsReadOrReset) {
  const Group group(std::make_shared<LateCounter>());
  EXPECT_EQ(group.stats().stream_wait_s, 0.25);
  EXPECT_EQ(group.stats().stream_wait_s, 0.5);
  group.reset_stats();
  EXPECT_EQ(group.stats().stream_wait_s, 0.25);
}

}  // namespace
}  // namespace longship
