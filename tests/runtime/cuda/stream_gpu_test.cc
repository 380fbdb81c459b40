#include "runtime/cuda/stream.h"

#include <gtest/gtest.h>

#include "runtime/gpu.h"
#include "tests/support/stream_gate.h"

namespace longship {
namespace {

using testing::StreamGate;

TEST(StreamOnGpu, WaitsForTheEventOfAnother) {
  const Gpu gpu(0);
  StreamGate gate(*gpu.copy);
  const Event copied = gpu.copy->record();
  gpu.compute->wait(copied);
  const Event computed = gpu.compute->record();
  EXPECT_FALSE(copied.has_passed());
  EXPECT_FALSE(computed.has_passed());
  gate.open();
  computed.synchronize();
  EXPECT_TRUE(copied.has_passed());
}

TEST(StreamOnGpu, RunsBesideOthersUnlessItWaits) {
  const Gpu gpu(0);
  const Tensor tensor = Tensor::zeros(gpu.memory, {1 << 20}, DType::kF32);
  StreamGate gate(*gpu.copy);
  tensor.fill_zero();
  gpu.compute->synchronize();
  gpu.communication->synchronize();
  EXPECT_FALSE(gpu.copy->record().has_passed());
}

TEST(StreamOnGpu, WaitsForWhatAnEventMeantThoughItsPlaceIsTakenByAnother) {
  const Gpu gpu(0);
  StreamGate gate(*gpu.copy);
  gpu.compute->wait(gpu.copy->record());  // the event is given back here
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(gpu.copy->record().has_passed());
  const Event computed = gpu.compute->record();
  for (int i = 0; i < 3; ++i) {
    const Event other = gpu.communication->record();
    other.synchronize();
    EXPECT_FALSE(computed.has_passed());
  }
  gate.open();
  computed.synchronize();
}

TEST(StreamOnGpu, EmptyEventHasPassed) {
  const Gpu gpu(0);
  const Event empty;
  EXPECT_TRUE(empty.has_passed());
  gpu.compute->wait(empty);
  gpu.compute->synchronize();
}

TEST(StreamOnGpu, MeasuresTimeBetweenEvents) {
  const Gpu gpu(0);
  const Event start = gpu.compute->record_time();
  Tensor::zeros(gpu.memory, {1 << 28}, DType::kU8);
  const Event end = gpu.compute->record_time();
  end.synchronize();
  EXPECT_GT(end.milliseconds_since(start), 0.01);
}

TEST(StreamOnGpu, OrdersEventsOfOneStream) {
  const Gpu gpu(0);
  const Event first = gpu.compute->record(), second = gpu.compute->record();
  const Event other = gpu.copy->record();
  EXPECT_TRUE(first.is_before(second));
  EXPECT_FALSE(second.is_before(first));
  EXPECT_TRUE(first.is_on_stream_of(second));
  EXPECT_FALSE(first.is_on_stream_of(other));
}

}  // namespace
}  // namespace longship
