// The embedding on a GPU against the CPU's in fp64, with poisoned outputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <thread>

#include "runtime/gpu.h"
#include "runtime/ops/embedding.h"
#include "runtime/random.h"
#include "tests/support/gpu_check.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"
#include "tests/support/stream_gate.h"

namespace longship {
namespace {

using testing::poisoned_gpu;
using testing::random_tensor;
using testing::StreamGate;
using Ids = std::vector<int32_t>;

Tensor ids_tensor(const Context& ctx, const Ids& ids) {
  return Tensor::from<int32_t>(ctx.memory, {static_cast<int64_t>(ids.size())}, ids);
}

testing::OpFunction lookup(const Ids& ids) {
  return [ids](Context& ctx, const std::vector<Variable>& inputs) {
    return std::vector<Variable>{embedding(ctx, inputs[0], ids_tensor(ctx, ids))};
  };
}

// Ids that fall with their share of the text; a seventh of the tokens is id 0.
Ids text_like(int64_t count, int64_t vocabulary) {
  Ids ids;
  for (int64_t t = 0; t < count; ++t) {
    const double u = uniform(1, 1, static_cast<uint64_t>(t));
    ids.push_back(u < 1.0 / 7 ? 0 : static_cast<int32_t>(vocabulary * std::pow(u, 4)));
  }
  return ids;
}

// `lengths` tokens of id 0, of id 1 and so on, in an order that mixes them.
Ids runs_of(const std::vector<int64_t>& lengths) {
  Ids ids;
  for (bool found = true; found;) {
    found = false;
    for (size_t id = 0; id < lengths.size(); ++id) {
      const int64_t used = std::count(ids.begin(), ids.end(), static_cast<int32_t>(id));
      if (used == lengths[id]) continue;
      ids.push_back(static_cast<int32_t>(id));
      found = true;
    }
  }
  return ids;
}

void expect_equal_to_cpu(const Context& gpu, const Ids& ids, int64_t V, int64_t E) {
  SCOPED_TRACE(fmt::format("{} tokens, table {}x{}", ids.size(), V, E));
  Context cpu;
  const std::vector<Tensor> table = {random_tensor(cpu, {V, E}, 3)};
  testing::check_on_gpu(gpu, lookup(ids), table);
  // Sums in fp32 of bf16 values are as exact as those of fp32 values.
  const testing::OpResult exact = testing::run_op(lookup(ids), table, DType::kF64);
  const testing::OpResult found = testing::run_op(lookup(ids), table, DType::kBF16, gpu);
  EXPECT_LE(testing::relative_rms(found.gradients[0], exact.gradients[0]), 1e-6);
  EXPECT_TRUE(testing::bitwise_equal(found.outputs[0],
                                     testing::run_op(lookup(ids), table, DType::kBF16).outputs[0]));
}

TEST(EmbeddingOnGpu, EqualsTheCpuAtEverySize) {
  const Context gpu = poisoned_gpu();
  for (int64_t E : {1, 7, 8, 64, 100, 576, 1021, 2048, 4104})
    for (int64_t T : {1, 31, 32, 33, 1000}) expect_equal_to_cpu(gpu, text_like(T, 37), 37, E);
  expect_equal_to_cpu(gpu, text_like(20000, 1000), 1000, 64);
  expect_equal_to_cpu(gpu, text_like(300, 131072), 131072, 16);
  expect_equal_to_cpu(gpu, {}, 5, 8);
}

// A sum that begins, ends or goes on where one chunk of 32 sorted tokens meets the next.
TEST(EmbeddingOnGpu, EqualsTheCpuForEveryWayThatRunsMeetChunks) {
  const Context gpu = poisoned_gpu();
  for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{32, 32, 32},
                                              {31, 33, 32},
                                              {31, 32, 33, 32},
                                              {16, 33, 31, 32, 34},
                                              {33, 31, 1},
                                              {1, 95},
                                              {96, 1},
                                              {16, 32, 16},
                                              {64, 64},
                                              {1, 1, 1, 61, 64, 65, 31},
                                              {500},
                                              {0, 129, 0, 127},
                                              {32, 1, 31, 300, 20}})
    for (int64_t E : {5, 24}) expect_equal_to_cpu(gpu, runs_of(lengths), 8, E);
}

TEST(EmbeddingOnGpu, EqualsTheCpuForRunsOfEveryLengthAtEveryPlace) {
  const Context gpu = poisoned_gpu();
  // Every length comes again and again, at another distance from the border of a chunk.
  std::vector<int64_t> lengths;
  for (int64_t first = 1; first <= 31; first += 2) {
    lengths.push_back(first);
    for (int64_t length = 1; length <= 70; ++length) lengths.push_back(length);
  }
  Ids ids;
  for (size_t id = 0; id < lengths.size(); ++id)
    ids.insert(ids.end(), static_cast<size_t>(lengths[id]), static_cast<int32_t>(id));
  // 7919 is a prime that does not divide their number.
  Ids mixed(ids.size());
  for (size_t t = 0; t < ids.size(); ++t) mixed[t * 7919 % ids.size()] = ids[t];
  expect_equal_to_cpu(gpu, mixed, static_cast<int64_t>(lengths.size()), 12);
}

// Its tape ends while the ids still wait to be sorted.
TEST(EmbeddingOnGpu, WithoutABackwardLeavesMemoryAloneThatOthersGet) {
  constexpr int64_t kTokens = 20000;
  Context gpu = gpu_context(0);
  Tape tape;
  gpu.tape = &tape;
  Context cpu;
  const Variable table = Variable::leaf(gpu.zeros({1000, 8}, DType::kBF16));
  const Tensor ids_T = ids_tensor(gpu, text_like(kTokens, 1000));
  const auto forward_only = [&] {
    embedding(gpu, table, ids_T);
    tape.clear();
    return gpu.zeros({2, 2, kTokens}, DType::kI32);  // where the sort writes
  };
  forward_only();
  gpu.gpu->compute->synchronize();
  StreamGate gate(*gpu.gpu->copy);
  const Tensor zeros = forward_only();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  gate.open();
  gpu.gpu->copy->synchronize();
  const Tensor values = zeros.to(cpu.memory);
  EXPECT_EQ(std::count(values.data<int32_t>(), values.data<int32_t>() + values.numel(), 0),
            values.numel());
}

TEST(EmbeddingOnGpu, AddsToTheGradientThatIsThere) {
  Context gpu = poisoned_gpu();
  Tape tape;
  gpu.tape = &tape;
  Context cpu;
  const Ids ids = text_like(777, 50);
  const Variable table = Variable::leaf(gpu.zeros({50, 40}, DType::kBF16));
  const Tensor dy = random_tensor(cpu, {777, 40}, 4).to(DType::kBF16);
  std::vector<Tensor> sums;
  for (int step = 0; step < 2; ++step) {
    tape.backward(gpu, embedding(gpu, table, ids_tensor(gpu, ids)), upload(gpu, dy));
    sums.push_back(table.gradient()->sum().to(cpu.memory));
  }
  for (int64_t i = 0; i < sums[0].numel(); ++i)
    ASSERT_EQ(sums[1].data<float>()[i], 2 * sums[0].data<float>()[i]) << i;
}

TEST(EmbeddingOnGpu, OfAnIdOutsideTheTableIsNanWithoutAGradient) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for (int64_t E : {3, 16}) {
      Context gpu = poisoned_gpu();
      Tape tape;
      gpu.tape = &tape;
      Context cpu;
      const Ids ids = {2, -1, 0, 5, 2, 6, INT32_MAX, INT32_MIN};  // of 5
      const Variable table = Variable::leaf(upload(gpu, random_tensor(cpu, {5, E}, 5).to(dtype)));
      const Variable y = embedding(gpu, table, ids_tensor(gpu, ids));
      const Tensor ones = cpu.empty(y.shape(), DType::kF64);
      std::fill_n(ones.data<double>(), ones.numel(), 1.0);
      tape.backward(gpu, y, upload(gpu, ones.to(dtype)));
      const Tensor rows = y.value().to(cpu.memory).to(DType::kF64);
      const Tensor dtable = table.gradient()->sum().to(cpu.memory);
      const float counts[] = {1, 0, 2, 0, 0};
      for (int64_t e = 0; e < E; ++e) {
        for (int64_t t = 0; t < 8; ++t)
          EXPECT_EQ(std::isnan(rows.data<double>()[t * E + e]), t != 0 && t != 2 && t != 4);
        for (int64_t v = 0; v < 5; ++v) EXPECT_EQ(dtable.data<float>()[v * E + e], counts[v]) << v;
      }
    }
}

}  // namespace
}  // namespace longship
