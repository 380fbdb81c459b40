// The short convolution on a sequence that ranks share, against plain loops in fp64 over the whole
// batch, and against one rank bit by bit.
// ranks: 1 2 3 4 8
#include <gtest/gtest.h>

#include <cstring>

#include "attention/linear/short_convolution.h"
#include "runtime/random.h"
#include "tests/support/gradient_check.h"
#include "tests/support/mpi_main.h"
#include "tests/support/naive_convolution.h"

namespace longship {
namespace {

using testing::naive_convolution;
using testing::NaiveConvolution;
using testing::NaiveConvolutionInput;
using testing::random_tensor;
using testing::relative_rms;
using testing::TapeContext;
using testing::world;

constexpr int64_t kChannels = 21;

std::vector<std::vector<int64_t>> batches() {
  std::vector<int64_t> random = {0};
  for (uint64_t d = 0; d < 14; ++d)
    random.push_back(random.back() +
                     (d % 4 == 1 ? 1 : static_cast<int64_t>(1 + uniform_index(5, 9, d, 40))));
  return {
      {0, 150},         random,
      {0, 1, 4, 9, 10},          // shards of a token or two: a halo spans several ranks
      {0, 2, 12, 15},   {0, 2},  // ranks without tokens
      {0, 0},
  };
}

struct Results {
  Tensor y_TC, dx_TC, dweight_CW, dbias_C;
};

// This rank's part of the batch, of several inputs at once.
std::vector<Results> run(const Group& sp, const SequencePlan& plan,
                         const std::vector<NaiveConvolutionInput>& whole,
                         const std::vector<Tensor>& whole_dy_TC, DType dtype) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  auto leaf = [&](const Tensor& tensor) {
    return tensor.defined() ? Variable::leaf(tensor.to(dtype)) : Variable();
  };
  std::vector<ShortConvolutionInput> inputs;
  for (const NaiveConvolutionInput& one : whole)
    inputs.push_back({.x_TC = leaf(plan.shard(ctx, one.x_TC)),
                      .weight_CW = leaf(one.weight_CW),
                      .bias_C = leaf(one.bias_C),
                      .silu = one.silu});
  const std::vector<Variable> y_TC = short_convolution(ctx, sp, inputs, plan);
  for (size_t i = 1; i < y_TC.size(); ++i)
    y_TC[i].gradient()->add(ctx, plan.shard(ctx, whole_dy_TC[i]).to(dtype));
  recorded.tape.backward(ctx, y_TC[0], plan.shard(ctx, whole_dy_TC[0]).to(dtype));
  std::vector<Results> results;
  for (size_t i = 0; i < inputs.size(); ++i)
    results.push_back({y_TC[i].value(), inputs[i].x_TC.gradient()->sum(),
                       inputs[i].weight_CW.gradient()->sum(),
                       inputs[i].bias_C.defined() ? inputs[i].bias_C.gradient()->sum() : Tensor()});
  return results;
}

Results run(const Group& sp, const SequencePlan& plan, const NaiveConvolutionInput& whole,
            const Tensor& whole_dy_TC, DType dtype) {
  return run(sp, plan, std::vector{whole}, {whole_dy_TC}, dtype)[0];
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.num_bytes())) == 0;
}

NaiveConvolutionInput whole_input(Context& ctx, const std::vector<int64_t>& cu_seqlens,
                                  int64_t width, bool has_bias) {
  return {.x_TC = random_tensor(ctx, {cu_seqlens.back(), kChannels}, 1),
          .weight_CW = random_tensor(ctx, {kChannels, width}, 2),
          .bias_C = has_bias ? random_tensor(ctx, {kChannels}, 3) : Tensor(),
          .silu = has_bias,
          .cu_seqlens = cu_seqlens};
}

SequencePlan plan_of(const std::vector<int64_t>& cu_seqlens, Layout layout) {
  return SequencePlan::make(cu_seqlens, layout, world().size(), world().rank());
}

// Calls f(whole input, dy, plan) for every batch, layout and width.
template <class F>
void for_each_case(F&& f) {
  for (const std::vector<int64_t>& cu_seqlens : batches())
    for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
      for (int64_t width : {1, 2, 4, 8}) {
        SCOPED_TRACE(fmt::format("cu_seqlens {}, {}, width {}, rank {}", fmt::join(cu_seqlens, ","),
                                 layout_name(layout), width, world().rank()));
        Context ctx;
        f(ctx, whole_input(ctx, cu_seqlens, width, width != 2),
          random_tensor(ctx, {cu_seqlens.back(), kChannels}, 4), plan_of(cu_seqlens, layout));
      }
}

TEST(ShortConvolution, EqualsItsLoopOnEveryLayoutAndShardLength) {
  for_each_case([](Context& ctx, const NaiveConvolutionInput& whole, const Tensor& dy_TC,
                   const SequencePlan& plan) {
    const Results found = run(world(), plan, whole, dy_TC, DType::kF64);
    const NaiveConvolution expected = naive_convolution(ctx, whole, dy_TC);
    EXPECT_LE(relative_rms(found.y_TC, plan.shard(ctx, expected.y_TC)), 1e-14);
    EXPECT_LE(relative_rms(found.dx_TC, plan.shard(ctx, expected.dx_TC)), 1e-14);
    world().all_reduce("test", found.dweight_CW).wait();
    EXPECT_LE(relative_rms(found.dweight_CW, expected.dweight_CW), 1e-13);
    if (!whole.bias_C.defined()) return;
    world().all_reduce("test", found.dbias_C).wait();
    EXPECT_LE(relative_rms(found.dbias_C, expected.dbias_C), 1e-13);
  });
}

TEST(ShortConvolution, HasTheBitsOfOneRankAndRepeatsThem) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for_each_case([&](Context& ctx, const NaiveConvolutionInput& whole, const Tensor& dy_TC,
                      const SequencePlan& plan) {
      const Results one =
          run(Group::self(), SequencePlan::local(whole.cu_seqlens), whole, dy_TC, dtype);
      const Results found = run(world(), plan, whole, dy_TC, dtype);
      EXPECT_TRUE(same_bits(found.y_TC, plan.shard(ctx, one.y_TC)));
      EXPECT_TRUE(same_bits(found.dx_TC, plan.shard(ctx, one.dx_TC)));
      const Results again = run(world(), plan, whole, dy_TC, dtype);
      EXPECT_TRUE(same_bits(found.y_TC, again.y_TC));
      EXPECT_TRUE(same_bits(found.dx_TC, again.dx_TC));
      EXPECT_TRUE(same_bits(found.dweight_CW, again.dweight_CW));
    });
}

TEST(ShortConvolution, TokenChangesOnlyTheNextTokensOfItsDocument) {
  constexpr int64_t kWidth = 4, kChanged = 38, kDocumentEnd = 40;
  const std::vector<int64_t> cu_seqlens = {0, 7, kDocumentEnd, 60};
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
    Context ctx;
    const SequencePlan plan = plan_of(cu_seqlens, layout);
    const NaiveConvolutionInput whole = whole_input(ctx, cu_seqlens, kWidth, true);
    const Tensor dy_TC = random_tensor(ctx, {60, kChannels}, 4);
    NaiveConvolutionInput changed = whole;
    changed.x_TC = whole.x_TC.clone();
    changed.x_TC.data<double>()[kChanged * kChannels] += 1;
    const Tensor before = run(world(), plan, whole, dy_TC, DType::kF32).y_TC;
    const Tensor after = run(world(), plan, changed, dy_TC, DType::kF32).y_TC;
    for (const Segment& segment : plan.local_segments())
      for (int64_t i = 0; i < segment.length; ++i) {
        const int64_t token = segment.global_begin + i;
        const bool reads = token >= kChanged && token < std::min(kChanged + kWidth, kDocumentEnd);
        EXPECT_EQ(
            !same_bits(before.slice(0, segment.slot + i, 1), after.slice(0, segment.slot + i, 1)),
            reads)
            << layout_name(layout) << " token " << token;
      }
  }
}

// Rows that leave this rank, token by token: every token of another rank's run of neighbours wants
// the `width` - 1 tokens on one side of that run; runs are found without the plan's segments.
int64_t rows_sent(const std::vector<int64_t>& cu_seqlens, Layout layout, int64_t width,
                  bool before) {
  const int64_t total = cu_seqlens.back();
  std::vector<int> owner(static_cast<size_t>(total)), document(owner.size());
  const int size = world().size();
  const int64_t chunks = layout == Layout::kZigzag ? 2 * size : size;
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    for (int64_t t = total * chunk / chunks; t < total * (chunk + 1) / chunks; ++t)
      owner[static_cast<size_t>(t)] =
          static_cast<int>(chunk < size ? chunk : 2 * int64_t{size} - 1 - chunk);
  for (size_t d = 1; d < cu_seqlens.size(); ++d)
    for (int64_t t = cu_seqlens[d - 1]; t < cu_seqlens[d]; ++t)
      document[static_cast<size_t>(t)] = static_cast<int>(d);
  const int64_t step = before ? -1 : 1;
  int64_t rows = 0;
  for (int64_t t = 0; t < total; ++t) {
    auto in_document = [&](int64_t other) {
      return other >= 0 && other < total &&
             document[static_cast<size_t>(other)] == document[static_cast<size_t>(t)];
    };
    const int wants = owner[static_cast<size_t>(t)];
    // Only the token at the border of its run wants rows for the run.
    if (!in_document(t + step) || owner[static_cast<size_t>(t + step)] == wants) continue;
    for (int64_t d = 1; d < width && in_document(t + d * step); ++d) {
      const int holds = owner[static_cast<size_t>(t + d * step)];
      rows += holds == world().rank() && wants != holds;
    }
  }
  return rows;
}

TEST(ShortConvolution, SendsTheRowsNextToItsBordersAndNoMore) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for_each_case([&](Context&, const NaiveConvolutionInput& whole, const Tensor& dy_TC,
                      const SequencePlan& plan) {
      world().reset_stats();
      run(world(), plan, whole, dy_TC, dtype);
      const CommStats stats = world().stats();
      const int64_t width = whole.weight_CW.dim(1);
      EXPECT_EQ(
          stats.sent_bytes("convolution.fwd"),
          rows_sent(whole.cu_seqlens, plan.layout(), width, true) * kChannels * dtype_size(dtype));
      EXPECT_EQ(stats.sent_bytes("convolution.bwd"),
                rows_sent(whole.cu_seqlens, plan.layout(), width, false) * kChannels * 4);
      EXPECT_EQ(stats.total_sent_bytes(),
                stats.sent_bytes("convolution.fwd") + stats.sent_bytes("convolution.bwd"));
    });
}

TEST(ShortConvolution, OfSeveralInputsIsThatOfEachInOneExchangeEachWay) {
  for (DType dtype : {DType::kF32, DType::kBF16})
    for_each_case([&](Context& ctx, const NaiveConvolutionInput& whole, const Tensor& dy_TC,
                      const SequencePlan& plan) {
      const int64_t tokens = plan.num_tokens(), width = whole.weight_CW.dim(1);
      // Other numbers of channels, one of them with bias and SiLU where `whole` has none.
      std::vector<NaiveConvolutionInput> inputs = {whole, whole, whole};
      std::vector<Tensor> dy = {dy_TC};
      int64_t num_channels = kChannels;
      for (const auto& [i, channels] : {std::pair<size_t, int64_t>{1, 70}, {2, 5}}) {
        inputs[i].x_TC = random_tensor(ctx, {tokens, channels}, 10 + i);
        inputs[i].weight_CW = random_tensor(ctx, {channels, width}, 20 + i);
        inputs[i].silu = i == 1;
        inputs[i].bias_C = i == 1 ? random_tensor(ctx, {channels}, 30) : Tensor();
        dy.push_back(random_tensor(ctx, {tokens, channels}, 40 + i));
        num_channels += channels;
      }
      world().reset_stats();
      const std::vector<Results> found = run(world(), plan, inputs, dy, dtype);
      const CommStats stats = world().stats();
      const int64_t fwd_rows = rows_sent(whole.cu_seqlens, plan.layout(), width, true);
      const int64_t bwd_rows = rows_sent(whole.cu_seqlens, plan.layout(), width, false);
      EXPECT_EQ(stats.sent_bytes("convolution.fwd"), fwd_rows * num_channels * dtype_size(dtype));
      EXPECT_EQ(stats.sent_bytes("convolution.bwd"), bwd_rows * num_channels * 4);
      if (width == 1) {
        EXPECT_TRUE(stats.by_label.empty());
      } else {
        EXPECT_EQ(stats.by_label.size(), 2u);
        EXPECT_EQ(stats.by_label.at("convolution.fwd").num_calls, 1);
        EXPECT_EQ(stats.by_label.at("convolution.bwd").num_calls, 1);
      }
      for (size_t i = 0; i < inputs.size(); ++i) {
        const Results alone = run(world(), plan, inputs[i], dy[i], dtype);
        EXPECT_TRUE(same_bits(found[i].y_TC, alone.y_TC)) << i;
        EXPECT_TRUE(same_bits(found[i].dx_TC, alone.dx_TC)) << i;
        EXPECT_TRUE(same_bits(found[i].dweight_CW, alone.dweight_CW)) << i;
        ASSERT_EQ(found[i].dbias_C.defined(), inputs[i].bias_C.defined()) << i;
        if (found[i].dbias_C.defined()) {
          EXPECT_TRUE(same_bits(found[i].dbias_C, alone.dbias_C)) << i;
        }
      }
    });
}

TEST(ShortConvolution, SendsWidthLessOneRowsForEachBorderOfALongDocument) {
  constexpr int64_t kWidth = 4, kTokens = 40 * 16;
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag}) {
    Context ctx;
    const SequencePlan plan = plan_of({0, kTokens}, layout);
    world().reset_stats();
    run(world(), plan, whole_input(ctx, {0, kTokens}, kWidth, true),
        random_tensor(ctx, {kTokens, kChannels}, 4), DType::kBF16);
    const bool last = world().rank() + 1 == world().size(), first = world().rank() == 0;
    int64_t continued = last ? 0 : 1, continues = first ? 0 : 1;
    if (layout == Layout::kZigzag) {
      // The second chunk goes on to the rank before; the last rank's two are one segment.
      continued += first ? 0 : 1;
      continues += last ? 0 : 1;
    }
    EXPECT_EQ(world().stats().sent_bytes("convolution.fwd"),
              continued * (kWidth - 1) * kChannels * 2);
    EXPECT_EQ(world().stats().sent_bytes("convolution.bwd"),
              continues * (kWidth - 1) * kChannels * 4);
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
