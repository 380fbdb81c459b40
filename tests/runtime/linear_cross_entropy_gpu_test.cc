// The head and its loss on a GPU against the CPU's in fp64, with poisoned outputs.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/ops/linear_cross_entropy.h"
#include "runtime/random.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::poisoned_gpu;
using testing::random_tensor;
using testing::relative_rms;

struct Size {
  int64_t T, E, V;
};

// On the host, with values that bf16 holds exactly.
struct Problem {
  Tensor h_TE, head_VE;  // fp64
  Tensor targets_T, weights_T;

  // Every third token or so has weight 0, and then a target that no vocabulary has.
  explicit Problem(const Size& size, double h_scale = 1) {
    Context ctx;
    const auto V = static_cast<uint64_t>(size.V);
    h_TE = random_tensor(ctx, {size.T, size.E}, 1, h_scale).to(DType::kBF16).to(DType::kF64);
    head_VE = random_tensor(ctx, {size.V, size.E}, 2, 0.3).to(DType::kBF16).to(DType::kF64);
    targets_T = ctx.empty({size.T}, DType::kI32);
    weights_T = ctx.empty({size.T}, DType::kF32);
    for (int64_t t = 0; t < size.T; ++t) {
      const auto index = static_cast<uint64_t>(t);
      const bool skipped = t > 0 && uniform_index(3, 0, index, 3) == 0;
      weights_T.data<float>()[t] =
          skipped ? 0 : 0.25f * static_cast<float>(1 + uniform_index(3, 1, index, 8));
      targets_T.data<int32_t>()[t] =
          skipped ? -7 : static_cast<int32_t>(uniform_index(3, 2, index, V));
    }
  }
};

struct Result {
  Tensor loss, dh_TE, dhead_VE;  // on the host

  double loss_value() const { return *loss.to(DType::kF64).data<double>(); }
};

Result run(Context ctx, const Problem& problem, DType dtype, int64_t chunk_tokens,
           double seed = 1) {
  Tape tape;
  ctx.tape = &tape;
  // h is the output of an op, so that its gradient stays in its dtype.
  const Variable h(problem.h_TE.to(dtype).to(ctx.memory),
                   std::make_shared<Gradient>(problem.h_TE.shape(), dtype));
  const Variable head = Variable::leaf(problem.head_VE.to(dtype).to(ctx.memory));
  const Variable loss = linear_cross_entropy(ctx, h, head, problem.targets_T.to(ctx.memory),
                                             problem.weights_T.to(ctx.memory), chunk_tokens);
  tape.backward(ctx, loss, seed);
  const auto host = std::make_shared<Memory>();
  return {loss.value().to(host), h.gradient()->sum().to(host), head.gradient()->sum().to(host)};
}

void expect_equal_to_cpu(const Context& gpu, const Size& size, int64_t chunk_tokens) {
  Context cpu;
  cpu.num_threads = 4;
  const Problem problem(size);
  const Result exact = run(cpu, problem, DType::kF64, 64);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Result found = run(gpu, problem, dtype, chunk_tokens);
    const std::string name = fmt::format("{} T {} E {} V {} in chunks of {}", dtype_name(dtype),
                                         size.T, size.E, size.V, chunk_tokens);
    const double bound = dtype == DType::kF32 ? 1e-5 : 1e-2;
    EXPECT_NEAR(found.loss_value(), exact.loss_value(), 2e-6 * (1 + exact.loss_value())) << name;
    EXPECT_LE(relative_rms(found.dh_TE, exact.dh_TE), bound) << name;
    EXPECT_LE(relative_rms(found.dhead_VE, exact.dhead_VE), bound) << name;
    EXPECT_EQ(found.dh_TE.dtype(), dtype);
    EXPECT_EQ(found.dhead_VE.dtype(), DType::kF32);
  }
}

TEST(LinearCrossEntropyOnGpu, EqualsTheCpuForEveryTypeAndChunk) {
  const Context gpu = poisoned_gpu();
  for (const Size& size : std::vector<Size>{{1, 3, 1}, {3, 1, 2}, {131, 33, 65}, {70, 16, 4099}})
    for (const int64_t chunk_tokens : {1, 64, 67, 100000})
      expect_equal_to_cpu(gpu, size, chunk_tokens);
}

TEST(LinearCrossEntropyOnGpu, EqualsTheCpuForVocabulariesOfModels) {
  const Context gpu = poisoned_gpu();
  for (const int64_t V : {8191, 16384, 16385, 32000, 49152, 50257, 128256, 151936, 262144})
    expect_equal_to_cpu(gpu, {21, 16, V}, 16);
}

// More rows than blocks can hold at a time; the longest are read twice.
TEST(LinearCrossEntropyOnGpu, EqualsTheCpuWhereRowsFollowEachOther) {
  const Context gpu = poisoned_gpu();
  for (const Size& size : std::vector<Size>{
           {1201, 8, 515}, {150, 8, 65537}, {90, 8, 128255}, {40, 8, 151936}, {37, 8, 300001}})
    expect_equal_to_cpu(gpu, size, size.T);
}

TEST(LinearCrossEntropyOnGpu, StaysExactForLargeLogits) {
  // exp of these logits overflows fp32; only differences from the largest may be used.
  const Problem problem({9, 4, 33}, 256);
  const Context gpu = poisoned_gpu();
  const Result exact = run(Context{}, problem, DType::kF64, 8);
  const Result found = run(gpu, problem, DType::kF32, 8);
  EXPECT_NEAR(found.loss_value(), exact.loss_value(), 1e-6 * exact.loss_value());
  EXPECT_LE(relative_rms(found.dh_TE, exact.dh_TE), 1e-4);
}

TEST(LinearCrossEntropyOnGpu, TokensOfWeightZeroGetGradientsOfZero) {
  const Context gpu = poisoned_gpu();
  const Problem problem({75, 8, 11});
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Tensor dh_TE = run(gpu, problem, dtype, 32).dh_TE.to(DType::kF64);
    for (int64_t t = 0; t < 75; ++t) {
      double squares = 0;
      for (int64_t e = 0; e < 8; ++e) squares += std::pow(dh_TE.data<double>()[t * 8 + e], 2);
      EXPECT_EQ(squares > 0, problem.weights_T.data<float>()[t] != 0) << "token " << t;
    }
  }
}

TEST(LinearCrossEntropyOnGpu, ARankWithoutLossTokensGivesZeros) {
  const Context gpu = poisoned_gpu();
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const int64_t T : {0, 9}) {
      const Problem problem({T, 5, 7});
      problem.weights_T.fill_zero();
      const Result found = run(gpu, problem, dtype, 4);
      const auto host = std::make_shared<Memory>();
      EXPECT_EQ(found.loss_value(), 0);
      EXPECT_EQ(relative_rms(found.dh_TE, Tensor::zeros(host, {T, 5}, dtype)), 0);
      EXPECT_EQ(relative_rms(found.dhead_VE, Tensor::zeros(host, {7, 5}, DType::kF32)), 0);
    }
}

TEST(LinearCrossEntropyOnGpu, ScalesItsGradientsByTheIncomingOne) {
  const Context gpu = poisoned_gpu();
  const Problem problem({37, 9, 21});
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Result one = run(gpu, problem, dtype, 16), scaled = run(gpu, problem, dtype, 16, -0.25);
    EXPECT_TRUE(bitwise_equal(one.loss, scaled.loss));
    for (const auto& [a, b] :
         {std::pair{one.dh_TE, scaled.dh_TE}, std::pair{one.dhead_VE, scaled.dhead_VE}}) {
      const Tensor x = a.to(DType::kF64), y = b.to(DType::kF64);
      for (int64_t i = 0; i < x.numel(); ++i)
        EXPECT_EQ(x.data<double>()[i] * -0.25, y.data<double>()[i]);
    }
  }
}

TEST(LinearCrossEntropyOnGpu, GivesTheSameBitsAgain) {
  const Problem problem({517, 64, 5003});
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Result first = run(poisoned_gpu(), problem, dtype, 200);
    for (int repeat = 0; repeat < 3; ++repeat) {
      const Result again = run(poisoned_gpu(), problem, dtype, 200);
      EXPECT_TRUE(bitwise_equal(again.loss, first.loss));
      EXPECT_TRUE(bitwise_equal(again.dh_TE, first.dh_TE));
      EXPECT_TRUE(bitwise_equal(again.dhead_VE, first.dhead_VE));
    }
  }
}

TEST(LinearCrossEntropyOnGpu, ATargetOutsideTheVocabularyMakesTheLossNaN) {
  const Context gpu = poisoned_gpu();
  for (const int32_t bad : {-1, 7}) {
    const Problem problem({9, 5, 7});
    problem.targets_T.data<int32_t>()[0] = bad;
    EXPECT_TRUE(std::isnan(run(gpu, problem, DType::kF32, 4).loss_value()));
  }
}

TEST(TokenCrossEntropyOnGpu, EqualsTheCpu) {
  Context gpu = poisoned_gpu();
  Context cpu;
  for (const Size& size : std::vector<Size>{{133, 17, 29}, {21, 16, 50257}, {37, 4, 300001}}) {
    const Problem problem(size);
    for (int64_t t = 0; t < size.T; ++t) {
      int32_t& target = problem.targets_T.data<int32_t>()[t];
      target = std::max(target, 0);
    }
    const Tensor exact_T =
        token_cross_entropy(cpu, problem.h_TE, problem.head_VE, problem.targets_T, 50);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Tensor found_T = token_cross_entropy(gpu, problem.h_TE.to(dtype).to(gpu.memory),
                                                 problem.head_VE.to(dtype).to(gpu.memory),
                                                 problem.targets_T.to(gpu.memory), 50);
      EXPECT_EQ(found_T.dtype(), DType::kF32);
      EXPECT_LE(relative_rms(found_T.to(cpu.memory), exact_T), 2e-6);
    }
  }
}

}  // namespace
}  // namespace longship
