// Every operation of Group between two GPUs, by each transport, against the same operation of the
// same values on host tensors over MPI: equal bits, equal bytes counted.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>

#include "parallel/cuda/gpu_runtime.h"
#include "runtime/device_copy.h"
#include "runtime/random.h"
#include "tests/support/dice.h"
#include "tests/support/mpi_main.h"
#include "tests/support/stream_gate.h"

namespace longship {
namespace {

using testing::Dice;
using testing::StreamGate;
using testing::world;

const std::shared_ptr<Memory> kHost = std::make_shared<Memory>();

// Made when first used, kept from test to test, and gone before CUDA is.
std::map<TransportWish, std::unique_ptr<GpuRuntime>> runtimes;

const GpuRuntime& runtime_with(TransportWish wish) {
  auto& runtime = runtimes[wish];
  if (runtime == nullptr) {
    runtime = std::make_unique<GpuRuntime>(
        testing::mpi(), GpuRuntime::Options{.transports = wish, .timeout_s = 60});
    runtime->context().memory->set_poison(true);
    if (world().rank() == 0) std::printf("%s\n", runtime->transports().c_str());
  }
  return *runtime;
}

// The same on every rank, of any dtype; floating values are ordinary numbers.
Tensor random_tensor(Shape shape, DType dtype, uint64_t seed) {
  const Tensor values = Tensor::empty(kHost, shape, DType::kF32);
  for (int64_t i = 0; i < values.numel(); ++i)
    values.data<float>()[i] = static_cast<float>(normal(seed, 1, static_cast<uint64_t>(i)));
  if (is_floating(dtype)) return values.to(dtype);
  const Tensor whole = Tensor::empty(kHost, std::move(shape), dtype);
  for (int64_t i = 0; i < whole.num_bytes(); ++i)
    whole.raw()[i] = static_cast<std::byte>(philox(seed, 2, static_cast<uint64_t>(i))[0]);
  return whole;
}

::testing::AssertionResult same_bits(const Tensor& gpu, const Tensor& host) {
  const Tensor copy = gpu.to(kHost);
  if (copy.shape() != host.shape()) return ::testing::AssertionFailure() << "shapes differ";
  const auto a = copy.raw(), b = host.raw();
  for (int64_t i = 0; i < host.num_bytes(); ++i)
    if (a[i] != b[i])
      return ::testing::AssertionFailure() << "byte " << i << " of " << host.num_bytes();
  return ::testing::AssertionSuccess();
}

class GroupOnGpus : public ::testing::TestWithParam<TransportWish> {
 protected:
  static void TearDownTestSuite() { runtimes.clear(); }

  const GpuRuntime& runtime() const { return runtime_with(GetParam()); }
  const Context& ctx() const { return runtime().context(); }
  Group group() const { return runtime().world(); }
  int rank() const { return world().rank(); }

  Tensor gpu_copy(const Tensor& tensor) const { return tensor.to(ctx().memory); }

  // Runs the operation with tensors of the host and of the GPU, and compares what was counted.
  void compare_bytes(const std::function<void(const Group&, bool on_gpu)>& operation) const {
    const Group both = group();
    both.reset_stats();
    operation(both, false);
    const CommStats host = both.stats();
    both.reset_stats();
    operation(both, true);
    const CommStats gpu = both.stats();
    EXPECT_EQ(gpu.sent_bytes("test"), host.sent_bytes("test"));
    EXPECT_EQ(gpu.by_label.at("test").num_calls, host.by_label.at("test").num_calls);
  }
};

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kI64, DType::kU8};

// Row counts from 0 over 1 and odd ones up to messages of more than 16 MiB.
int64_t random_rows(Dice& dice) {
  return dice.one_of({0, 0, 1, 3, 127, 4099, 100003, dice.one_in(8) ? 1700001 : 977});
}

TEST_P(GroupOnGpus, AllToAllEqualsMpi) {
  Dice dice(11);
  for (int round = 0; round < 16; ++round) {
    int64_t rows[2][2];  // from, to
    for (auto& from : rows)
      for (int64_t& count : from) count = random_rows(dice);
    const DType dtype = kDTypes[dice.below(4)];
    const int r = rank();
    const std::vector<int64_t> sent = {rows[r][0], rows[r][1]}, received = {rows[0][r], rows[1][r]};
    const Tensor send =
        random_tensor({sent[0] + sent[1], 3}, dtype, static_cast<uint64_t>(100 * round + r));
    const Tensor host = Tensor::zeros(kHost, {received[0] + received[1], 3}, dtype);
    const Tensor gpu = ctx().empty(host.shape(), dtype), gpu_send = gpu_copy(send);
    compare_bytes([&](const Group& group, bool on_gpu) {
      group.all_to_all("test", on_gpu ? gpu_send : send, sent, on_gpu ? gpu : host, received)
          .wait();
    });
    ASSERT_TRUE(same_bits(gpu, host)) << "round " << round;
  }
}

TEST_P(GroupOnGpus, AllGatherAndBroadcastEqualMpi) {
  Dice dice(12);
  for (int round = 0; round < 16; ++round) {
    const std::vector<int64_t> rows = {random_rows(dice), random_rows(dice)};
    const DType dtype = kDTypes[dice.below(4)];
    const Tensor send = random_tensor({rows[static_cast<size_t>(rank())], 2}, dtype,
                                      static_cast<uint64_t>(100 * round + rank()));
    const Tensor host = Tensor::zeros(kHost, {rows[0] + rows[1], 2}, dtype);
    const Tensor gpu = ctx().empty(host.shape(), dtype), gpu_send = gpu_copy(send);
    compare_bytes([&](const Group& group, bool on_gpu) {
      group.all_gather("test", on_gpu ? gpu_send : send, on_gpu ? gpu : host, rows).wait();
    });
    ASSERT_TRUE(same_bits(gpu, host)) << "round " << round;

    const int root = static_cast<int>(dice.below(2));
    const Tensor host_value = random_tensor({rows[0]}, dtype, static_cast<uint64_t>(rank()));
    const Tensor gpu_value = gpu_copy(host_value);
    compare_bytes([&](const Group& group, bool on_gpu) {
      group.broadcast("test", on_gpu ? gpu_value : host_value, root).wait();
    });
    ASSERT_TRUE(same_bits(gpu_value, host_value)) << "round " << round;
  }
}

TEST_P(GroupOnGpus, ReductionsHaveTheBitsOfMpi) {
  Dice dice(13);
  for (int round = 0; round < 16; ++round) {
    const std::vector<int64_t> rows = {random_rows(dice), random_rows(dice)};
    const DType dtype = dice.one_in(2) ? DType::kF32 : DType::kF64;
    const auto seed = static_cast<uint64_t>(100 * round + rank());
    const Tensor send = random_tensor({rows[0] + rows[1], 1 + dice.below(3)}, dtype, seed);
    const Tensor host =
        Tensor::zeros(kHost, {rows[static_cast<size_t>(rank())], send.dim(1)}, dtype);
    const Tensor gpu = ctx().empty(host.shape(), dtype), gpu_send = gpu_copy(send);
    compare_bytes([&](const Group& group, bool on_gpu) {
      group.reduce_scatter("test", on_gpu ? gpu_send : send, on_gpu ? gpu : host, rows).wait();
    });
    ASSERT_TRUE(same_bits(gpu, host)) << "round " << round;

    for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin}) {
      const DType any = dice.one_in(2) ? DType::kI32 : dtype;
      const Tensor host_sum = random_tensor({rows[0]}, any, seed), gpu_sum = gpu_copy(host_sum);
      compare_bytes([&](const Group& group, bool on_gpu) {
        group.all_reduce("test", on_gpu ? gpu_sum : host_sum, op).wait();
      });
      ASSERT_TRUE(same_bits(gpu_sum, host_sum)) << "round " << round;
    }
  }
}

TEST_P(GroupOnGpus, ReducesSlicesThatAreNotAligned) {
  for (const int64_t begin : {0, 1, 2, 3}) {
    const Tensor host = random_tensor({100003}, DType::kF32, static_cast<uint64_t>(rank()));
    const Tensor gpu = gpu_copy(host);
    world().all_reduce("test", host.slice(0, begin, 90001)).wait();
    group().all_reduce("test", gpu.slice(0, begin, 90001)).wait();
    EXPECT_TRUE(same_bits(gpu, host)) << begin;
  }
}

// More messages of a pair than can be announced at once, some to this rank itself, some empty.
TEST_P(GroupOnGpus, ExchangesManyMessagesInTheirOrder) {
  Dice dice(14);
  std::vector<P2P> host_batch, gpu_batch;
  std::vector<std::pair<Tensor, Tensor>> received;
  for (int i = 0; i < 150; ++i) {
    const int64_t rows = dice.one_of({0, 1, 5, 1001, 20011});
    const bool is_local = dice.one_in(5);
    const int peer = is_local ? rank() : 1 - rank();
    const Tensor out = random_tensor({rows}, DType::kBF16, static_cast<uint64_t>(2 * i + rank()));
    const Tensor in = Tensor::zeros(kHost, {rows}, DType::kBF16);
    received.emplace_back(ctx().empty({rows}, DType::kBF16), in);
    host_batch.push_back(P2P::send(peer, out));
    host_batch.push_back(P2P::receive(peer, in));
    gpu_batch.push_back(P2P::send(peer, gpu_copy(out)));
    gpu_batch.push_back(P2P::receive(peer, received.back().first));
  }
  world().exchange("test", std::move(host_batch)).wait();
  group().exchange("test", std::move(gpu_batch)).wait();
  for (const auto& [gpu, host] : received) ASSERT_TRUE(same_bits(gpu, host));
}

// Columns of a wider tensor, on either side or on both, with rows of 1 byte to 8 KB: also to this
// rank itself, and beside messages in one run.
TEST_P(GroupOnGpus, ExchangesColumnsWhereTheyLie) {
  Dice dice(16);
  for (int round = 0; round < 24; ++round) {
    const DType dtype = kDTypes[dice.below(4)];
    const int64_t width = dice.one_of({1, 3, 64, 509, 1024});
    std::vector<P2P> host_batch, gpu_batch;
    std::vector<std::pair<Tensor, Tensor>> received;
    for (int i = 0; i < 6; ++i) {
      const int64_t rows = dice.one_of({0, 1, 3, 127, 2049});
      const bool is_local = dice.one_in(3), sends_columns = dice.one_in(2);
      const bool receives_columns = dice.one_in(2);
      const int peer = is_local ? rank() : 1 - rank();
      const auto seed = static_cast<uint64_t>(100 * round + 10 * i + rank());
      const Tensor out = random_tensor({rows, sends_columns ? 5 : 2, width}, dtype, seed);
      const Tensor in = Tensor::zeros(kHost, {rows, receives_columns ? 4 : 2, width}, dtype);
      received.emplace_back(gpu_copy(in), in);
      const auto columns = [](const Tensor& tensor, int64_t first) {
        return tensor.dim(1) > 2 ? tensor.slice(1, first, 2) : tensor.reshape({-1});
      };
      host_batch.push_back(P2P::send(peer, columns(out, 3)));
      host_batch.push_back(P2P::receive(peer, columns(in, 1)));
      gpu_batch.push_back(P2P::send(peer, columns(gpu_copy(out), 3)));
      gpu_batch.push_back(P2P::receive(peer, columns(received.back().first, 1)));
    }
    compare_bytes([&](const Group& group, bool on_gpu) {
      group.exchange("test", on_gpu ? gpu_batch : host_batch).wait();
    });
    for (const auto& [gpu, host] : received)
      ASSERT_TRUE(same_bits(gpu, host)) << "round " << round << ", rows of " << width;
  }
}

// Tensors are made, sent and dropped without anyone waiting for the GPU, so that their memory is
// used again and again while messages are still on their way.
TEST_P(GroupOnGpus, ReusesMemoryOfOperationsInFlight) {
  const Group both = group();
  const Group mirror = both.split(0, -rank());
  Dice dice(15);
  std::vector<Tensor> sums;
  std::vector<std::pair<int64_t, uint64_t>> cases;
  for (int i = 0; i < 200; ++i) {
    const int64_t count = 1 + dice.below(300000);
    const auto seed = static_cast<uint64_t>(i);
    cases.emplace_back(count, seed);
    const Tensor own = upload(ctx(), random_tensor({count}, DType::kF32, 2 * seed + rank()));
    const Tensor other = ctx().empty({count}, DType::kF32);
    const Group& used = i % 3 == 0 ? mirror : both;
    const int peer = 1 - used.rank();
    Work work = used.exchange("test", {P2P::send(peer, own), P2P::receive(peer, other)});
    if (i % 4 == 0)
      used.exchange("test",
                    {P2P::send(peer, own), P2P::receive(peer, ctx().empty({count}, DType::kF32))});
    work.wait();
    sums.push_back(ctx().empty({1}, DType::kF32));
    sums.back().copy_from(other.slice(0, count - 1, 1));
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    const auto [count, seed] = cases[i];
    const uint64_t others_seed = 2 * seed + static_cast<uint64_t>(1 - rank());
    const Tensor expected = Tensor::empty(kHost, {1}, DType::kF32);
    *expected.data<float>() =
        static_cast<float>(normal(others_seed, 1, static_cast<uint64_t>(count - 1)));
    ASSERT_TRUE(same_bits(sums[i], expected)) << i;
  }
}

TEST_P(GroupOnGpus, BeginsBehindTheComputeStreamAndRunsBesideIt) {
  const Gpu& gpu = *ctx().gpu;
  const int peer = 1 - rank();
  const auto made_by = [](int rank) {
    return random_tensor({1 << 20}, DType::kF32, static_cast<uint64_t>(rank));
  };
  const Tensor out = ctx().zeros({1 << 20}, DType::kF32), in = ctx().zeros({1 << 20}, DType::kF32);
  const Tensor staged = Tensor::empty(gpu.pinned, {1 << 20}, DType::kF32);
  staged.copy_from(made_by(rank()));
  gpu.compute->synchronize();
  Work work;
  {
    StreamGate gate(*gpu.compute);
    copy_async(out, staged, gpu.compute);
    work = group().exchange("test", {P2P::send(peer, out), P2P::receive(peer, in)});
    EXPECT_FALSE(work.done());
  }
  work.wait();
  EXPECT_TRUE(same_bits(in, made_by(peer)));

  in.fill_zero();
  Work beside = group().exchange("test", {P2P::send(peer, out), P2P::receive(peer, in)});
  {
    StreamGate gate(*gpu.compute);
    const auto begin = std::chrono::steady_clock::now();
    while (!beside.done())
      ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
  }
  beside.wait();
  EXPECT_TRUE(same_bits(in, made_by(peer)));
}

TEST_P(GroupOnGpus, HostTensorsAndValuesGoThroughMpi) {
  const Group both = group();
  EXPECT_EQ(both.all_reduce_value("test", int64_t{rank()} + 1, ReduceOp::kSum), 3);
  const Tensor gpu = gpu_copy(Tensor::zeros(kHost, {5}, DType::kF32));
  // A rank without messages takes part in operations of both kinds.
  if (rank() == 0) {
    both.exchange("test", {P2P::send(1, gpu)}).wait();
    both.exchange("test", {}).wait();
  } else {
    both.exchange("test", {P2P::receive(0, gpu)}).wait();
    both.exchange("test", {}).wait();
  }
  EXPECT_EQ(both.broadcast_bytes("test", rank() == 0 ? "from 0" : "", 0), "from 0");
  EXPECT_TRUE(same_bits(gpu, Tensor::zeros(kHost, {5}, DType::kF32)));
}

TEST_P(GroupOnGpus, SameRunGivesTheSameBits) {
  const Tensor values = random_tensor({3000017}, DType::kF32, static_cast<uint64_t>(rank()));
  const Tensor first = gpu_copy(values);
  group().all_reduce("test", first).wait();
  const Tensor expected = first.to(kHost);
  for (int run = 0; run < 10; ++run) {
    const Tensor again = gpu_copy(values);
    group().all_reduce("test", again).wait();
    ASSERT_TRUE(same_bits(again, expected)) << run;
  }
}

TEST_P(GroupOnGpus, AsksForNoMemoryOnceWarm) {
  const auto step = [&] {
    const Tensor x = ctx().zeros({1 << 20}, DType::kF32);
    group().all_reduce("test", x).wait();
  };
  step();
  const int64_t asked = ctx().memory->num_system_allocations();
  for (int i = 0; i < 10; ++i) step();
  EXPECT_EQ(ctx().memory->num_system_allocations(), asked);
}

std::string wish_name(const ::testing::TestParamInfo<TransportWish>& info) {
  switch (info.param) {
    case TransportWish::kPeerCopies:
      return "PeerCopies";
    case TransportWish::kNccl:
      return "Nccl";
    default:
      return "Measured";
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, GroupOnGpus,
                         ::testing::Values(TransportWish::kPeerCopies, TransportWish::kNccl,
                                           TransportWish::kMeasured),
                         wish_name);

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
