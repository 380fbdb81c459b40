// Attention calls by cuDNN against plain loops in fp64, with poisoned workspaces.
#include "attention/cuda/cudnn_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/expect_error.h"
#include "tests/support/gpu_check.h"
#include "tests/support/op_check.h"
#include "tests/support/plain_calls.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::expect_error;
using testing::PlainCalls;
using testing::poisoned_gpu;
using testing::random_tensor;

// What is in rows that a call leaves alone.
constexpr double kUntouched = 7;

struct Heads {
  int64_t H = 2, K = 1, D = 64, V = 64;
};

Tensor filled(const Context& ctx, Shape shape, DType dtype) {
  const Tensor tensor = Tensor::empty(std::make_shared<Memory>(), std::move(shape), DType::kF64);
  std::fill_n(tensor.data<double>(), tensor.numel(), kUntouched);
  return tensor.to(dtype).to(ctx.memory);
}

// A call on tensors with more rows than it uses. Values are bf16 numbers in fp64 on the host.
struct Case {
  AttentionCall call;
  Heads heads;
  int64_t T = 5, S = 3;
  Tensor q, k, v, d_o;
  double scale;

  Case(CallMask mask, std::vector<CallEntry> entries, Heads sizes = {})
      : call{mask, std::move(entries)}, heads(sizes), scale(1 / std::sqrt(1.0 * sizes.D)) {
    for (const CallEntry& entry : call.entries) {
      T = std::max(T, entry.q_end() + 5);
      S = std::max(S, entry.k_end() + 3);
    }
    Context ctx;
    auto random = [&](Shape shape, uint64_t seed) {
      return random_tensor(ctx, std::move(shape), seed).to(DType::kBF16).to(DType::kF64);
    };
    q = random({T, heads.H, heads.D}, 1);
    k = random({S, heads.K, heads.D}, 2);
    v = random({S, heads.K, heads.V}, 3);
    d_o = random({T, heads.H, heads.V}, 4);
  }
};

struct Result {
  Tensor o, lse, dq, dk, dv;

  Result on_host() const {
    const auto host = std::make_shared<Memory>();
    return {o.to(host), lse.to(host), dq.to(host), dk.to(host), dv.to(host)};
  }
};

CallForward forward(Context& ctx, const CallKernel& kernel, const Case& c, DType dtype) {
  auto input = [&](const Tensor& tensor) { return tensor.to(dtype).to(ctx.memory); };
  CallForward op{.q_THD = input(c.q),
                 .k_SKD = input(c.k),
                 .v_SKV = input(c.v),
                 .scale = c.scale,
                 .o_THV = filled(ctx, {c.T, c.heads.H, c.heads.V}, dtype),
                 .lse_TH = filled(ctx, {c.T, c.heads.H}, accumulator_dtype(dtype))};
  kernel.forward(ctx, c.call, op);
  return op;
}

Result run(Context& ctx, const CallKernel& kernel, const Case& c, DType dtype) {
  const CallForward op = forward(ctx, kernel, c, dtype);
  const CallBackward back{.q_THD = op.q_THD,
                          .k_SKD = op.k_SKD,
                          .v_SKV = op.v_SKV,
                          .scale = c.scale,
                          .o_THV = op.o_THV,
                          .lse_TH = op.lse_TH,
                          .do_THV = c.d_o.to(dtype).to(ctx.memory),
                          .dq_THD = filled(ctx, c.q.shape(), dtype),
                          .dk_SKD = filled(ctx, c.k.shape(), dtype),
                          .dv_SKV = filled(ctx, c.v.shape(), dtype)};
  kernel.backward(ctx, c.call, back);
  return Result{op.o_THV, op.lse_TH, back.dq_THD, back.dk_SKD, back.dv_SKV}.on_host();
}

// Rows of the entries are equal up to `bound` of their root mean square (of a tenth at least: a
// gradient is a difference, and zero where a query sees one key); other rows are untouched.
void expect_equal(const char* name, const Tensor& found, const Tensor& exact, double bound,
                  const std::vector<bool>& is_used) {
  const Tensor wide = found.to(DType::kF64);
  const int64_t row = wide.numel() / wide.dim(0);
  double difference = 0, square = 0;
  int64_t count = 0, num_touched = 0;
  for (int64_t i = 0; i < wide.numel(); ++i) {
    const double a = wide.data<double>()[i], b = exact.data<double>()[i];
    if (is_used[static_cast<size_t>(i / row)]) {
      difference += (a - b) * (a - b);
      square += b * b;
      ++count;
    } else {
      num_touched += a != kUntouched;
    }
  }
  EXPECT_EQ(num_touched, 0) << name;
  EXPECT_LE(std::sqrt(difference / count), bound * std::max(0.1, std::sqrt(square / count)))
      << name;
}

void expect_equal_to_plain_loops(Context& gpu, const Case& c,
                                 const CudnnAttentionOptions& options = {}) {
  Context cpu;
  const Result exact = run(cpu, PlainCalls(), c, DType::kF64);
  const Result found = run(gpu, CudnnAttention(options), c, DType::kBF16);
  std::vector<bool> queries(static_cast<size_t>(c.T)), keys(static_cast<size_t>(c.S));
  for (const CallEntry& entry : c.call.entries) {
    std::fill_n(queries.begin() + entry.q_begin, entry.q_length, true);
    std::fill_n(keys.begin() + entry.k_begin, entry.k_length, true);
  }
  SCOPED_TRACE(
      fmt::format("{} entries, the first of {} x {}; left {}, right {}; heads {}/{} of {}/{}",
                  c.call.entries.size(), c.call.entries[0].q_length, c.call.entries[0].k_length,
                  c.call.mask.left.value_or(-1), c.call.mask.right.value_or(-1), c.heads.H,
                  c.heads.K, c.heads.D, c.heads.V));
  expect_equal("o", found.o, exact.o, 4e-3, queries);
  expect_equal("lse", found.lse, exact.lse, 1e-6, queries);
  expect_equal("dq", found.dq, exact.dq, 6e-3, queries);
  expect_equal("dk", found.dk, exact.dk, 6e-3, keys);
  expect_equal("dv", found.dv, exact.dv, 6e-3, keys);
}

std::vector<CallMask> masks() {
  return {CallMask::full(),
          CallMask::causal(),
          CallMask::causal_window(50),
          {.left = 50, .right = {}},
          {.left = 50, .right = 20}};
}

// Squares and rectangles of odd lengths, with gaps, in no order of keys.
std::vector<CallEntry> odd_entries() {
  return {{3, 129, 1200, 129},  {140, 7, 1000, 127}, {150, 1, 3, 1},
          {151, 127, 600, 300}, {278, 1, 10, 129},   {300, 64, 200, 64}};
}

TEST(CudnnAttention, EqualsPlainLoopsForEveryMaskAndHeadSize) {
  Context gpu = poisoned_gpu();
  for (const Heads& heads : {Heads{2, 1, 64, 64}, Heads{2, 1, 96, 96}, Heads{2, 1, 128, 128},
                             Heads{2, 1, 192, 192}, Heads{2, 1, 256, 256}, Heads{2, 2, 192, 128}})
    for (const CallMask& mask : masks())
      expect_equal_to_plain_loops(gpu, Case(mask, odd_entries(), heads));
}

TEST(CudnnAttention, EqualsPlainLoopsForSingleEntriesOfAnyLength) {
  Context gpu = poisoned_gpu();
  for (const CallMask& mask : masks())
    for (int64_t length : {1, 7, 127, 128, 129, 256, 1000}) {
      expect_equal_to_plain_loops(gpu, Case(mask, {{0, length, 0, length}}));
      expect_equal_to_plain_loops(gpu, Case(mask, {{2, length, 4, length + 128}}));
    }
}

TEST(CudnnAttention, EqualsPlainLoopsForWindowsWithTheirHalo) {
  Context gpu = poisoned_gpu();
  for (int64_t window : {1, 2, 64, 129})
    expect_equal_to_plain_loops(gpu, Case(CallMask::causal_window(window),
                                          {{0, 500, 10, 500 + window - 1}, {500, 40, 800, 40}}));
}

TEST(CudnnAttention, EqualsPlainLoopsForGroupedHeads) {
  Context gpu = poisoned_gpu();
  for (const Heads& heads : {Heads{32, 8, 128, 128}, Heads{16, 2, 128, 128}, Heads{8, 1, 128, 128},
                             Heads{6, 6, 64, 64}}) {
    expect_equal_to_plain_loops(
        gpu, Case(CallMask::causal(), {{0, 70, 0, 70}, {70, 30, 70, 101}}, heads));
    expect_equal_to_plain_loops(gpu, Case(CallMask::causal(), {{0, 128, 0, 128}}, heads));
  }
}

TEST(CudnnAttention, ForwardEntriesMayShareKeys) {
  Context gpu = poisoned_gpu(), cpu;
  const Case c(CallMask::causal(), {{0, 100, 0, 300}, {100, 100, 50, 200}, {200, 9, 0, 400}});
  const Tensor exact = forward(cpu, PlainCalls(), c, DType::kF64).o_THV;
  const Tensor found = forward(gpu, CudnnAttention(), c, DType::kBF16).o_THV.to(cpu.memory);
  expect_equal("o", found.slice(0, 0, 209), exact.slice(0, 0, 209), 4e-3,
               std::vector<bool>(209, true));
}

TEST(CudnnAttention, DeterministicBackwardGivesTheSameBitsHoweverHeadsAreGrouped) {
  Context gpu = poisoned_gpu();
  const Heads heads{8, 4, 128, 128};
  for (const auto& entries :
       {std::vector<CallEntry>{{0, 256, 0, 256}}, {{0, 129, 0, 129}, {129, 300, 200, 500}}}) {
    const Case c(CallMask::causal(), entries, heads);
    const CudnnAttentionOptions together{.deterministic = true};
    const CudnnAttentionOptions one_by_one{.deterministic = true, .score_bytes = 1};
    expect_equal_to_plain_loops(gpu, c, together);
    expect_equal_to_plain_loops(gpu, c, one_by_one);
    const Result first = run(gpu, CudnnAttention(together), c, DType::kBF16);
    for (const auto& options : {together, together, one_by_one}) {
      const Result again = run(gpu, CudnnAttention(options), c, DType::kBF16);
      EXPECT_TRUE(bitwise_equal(again.dq, first.dq));
      EXPECT_TRUE(bitwise_equal(again.dk, first.dk));
      EXPECT_TRUE(bitwise_equal(again.dv, first.dv));
    }
  }
}

TEST(CudnnAttention, TakesTheWorkspaceThatIsPlanned) {
  for (const std::vector<CallEntry>& entries :
       {std::vector<CallEntry>{{0, 1024, 0, 2048}}, {{0, 700, 0, 700}, {700, 900, 700, 1100}}})
    for (bool deterministic : {false, true}) {
      const Case c(CallMask::causal(), entries, {.H = 8, .K = 2, .D = 128, .V = 128});
      const CudnnAttention kernel({.deterministic = deterministic});
      auto peak_of = [&](Context ctx) {
        auto room = [&](const Tensor& like) { return ctx.empty(like.shape(), DType::kBF16); };
        const CallBackward op{.q_THD = room(c.q),
                              .k_SKD = room(c.k),
                              .v_SKV = room(c.v),
                              .scale = c.scale,
                              .o_THV = room(c.d_o),
                              .lse_TH = ctx.empty({c.T, c.heads.H}, DType::kF32),
                              .do_THV = room(c.d_o),
                              .dq_THD = room(c.q),
                              .dk_SKD = room(c.k),
                              .dv_SKV = room(c.v)};
        ctx.memory->reset_peak();
        kernel.backward(ctx, c.call, op);
        return ctx.memory->peak_bytes();
      };
      Context planned;
      planned.memory = counting_memory({DeviceKind::kCuda, 0});
      const int64_t expected = peak_of(planned), found = peak_of(gpu_context(0));
      EXPECT_NEAR(static_cast<double>(expected), static_cast<double>(found), 0.02 * found);
    }
}

TEST(CudnnAttention, RefusesWhatItCannotDo) {
  Context gpu = gpu_context(0);
  const CudnnAttention kernel;
  const std::vector<CallEntry> entries = {{0, 10, 0, 10}};
  expect_error(ErrorCode::kConfig, {"bf16", "fp32"},
               [&] { run(gpu, kernel, Case(CallMask::full(), entries), DType::kF32); });
  expect_error(ErrorCode::kConfig, {"multiples of 16", "72"}, [&] {
    run(gpu, kernel, Case(CallMask::full(), entries, {2, 1, 72, 72}), DType::kBF16);
  });
  Case outside(CallMask::full(), entries);
  outside.call.entries = {{0, 10, 8, 10}};
  expect_error(ErrorCode::kInternal, {"10 keys from 8", "13 rows"},
               [&] { run(gpu, kernel, outside, DType::kBF16); });
  Case two_sizes(CallMask::full(), entries);
  two_sizes.k = two_sizes.k.slice(2, 0, 32).contiguous();
  expect_error(ErrorCode::kInternal, {"attention of q"},
               [&] { run(gpu, kernel, two_sizes, DType::kBF16); });
}

}  // namespace
}  // namespace longship
