#include "runtime/autograd/tape.h"

#include <gtest/gtest.h>

#include "runtime/ops/add.h"
#include "runtime/ops/linear.h"
#include "runtime/ops/reshape.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::random_tensor;
using testing::TapeContext;

Tensor filled(Context& ctx, Shape shape, double value, DType dtype = DType::kF64) {
  Tensor tensor = ctx.empty(std::move(shape), DType::kF64);
  std::fill_n(tensor.data<double>(), tensor.numel(), value);
  return tensor.to(dtype);
}

double first(const Tensor& tensor) {
  return *tensor.to(DType::kF64).data<double>();
}

// y = factor * x; keeps a copy of x of which nothing else knows.
struct ScaleNode final : Node {
  struct Saved {
    Tensor x;
  } saved;
  double factor = 1;
  std::string* log = nullptr;

  const char* name() const override { return "scale"; }
  void backward(Context& ctx) override {
    if (log) *log += fmt::format("{} ", factor);
    const Tensor dy = grad_output(ctx);
    Tensor dx = ctx.empty(dy.shape(), dy.dtype());
    for (int64_t i = 0; i < dy.numel(); ++i) dx.data<double>()[i] = factor * dy.data<double>()[i];
    input(0)->add(ctx, std::move(dx));
  }
  void visit_saved(const SavedVisitor& visit) override { visit("x", saved.x); }
};

Variable scale(Context& ctx, const Variable& x, double factor, std::string* log = nullptr) {
  const Tensor y = ctx.empty(x.shape(), x.dtype());
  for (int64_t i = 0; i < y.numel(); ++i)
    y.data<double>()[i] = factor * x.value().data<double>()[i];
  std::unique_ptr<ScaleNode> node;
  if (is_recording(ctx, {&x})) {
    node = std::make_unique<ScaleNode>();
    node->saved.x = x.value().clone();
    node->factor = factor;
    node->log = log;
  }
  return record(ctx, "scale", y, std::move(node), {&x});
}

TEST(Tape, WalksBackwardsOnceThroughEveryNodeThatWasReached) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  std::string log;
  const Variable x = Variable::leaf(filled(ctx, {1}, 3));
  const Variable a = scale(ctx, x, 2, &log);
  scale(ctx, a, 100, &log);  // leads nowhere
  const Variable b = scale(ctx, a, 5, &log);
  recorded.tape.backward(ctx, b, 0.5);
  EXPECT_EQ(log, "5 2 ");
  EXPECT_EQ(first(x.gradient()->sum()), 0.5 * 5 * 2);
  EXPECT_EQ(recorded.tape.num_nodes(), 0u);
}

// y = x, whose gradient comes when it is asked for.
struct LateNode final : Node {
  std::string* log = nullptr;

  const char* name() const override { return "late"; }
  void backward(Context& ctx) override {
    *log += "late ";
    input(0)->add_later(ctx, [dy = grad_output(ctx), log = log] {
      *log += "arrives ";
      return dy;
    });
  }
  void visit_saved(const SavedVisitor&) override {}
};

Variable late(Context& ctx, const Variable& x, std::string* log) {
  auto node = std::make_unique<LateNode>();
  node->log = log;
  return record(ctx, "late", x.value(), std::move(node), {&x});
}

TEST(Tape, AGradientOnItsWayArrivesWhenItIsFirstRead) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  std::string log;
  const Variable x = Variable::leaf(filled(ctx, {1}, 3));
  const Variable other = Variable::leaf(filled(ctx, {1}, 1));
  const Variable a = scale(ctx, x, 2, &log);
  const Variable b = scale(ctx, other, 7, &log);
  recorded.tape.backward(ctx, late(ctx, add(ctx, a, b), &log), 0.5);
  // `add` reads it; nothing else waits.
  EXPECT_EQ(log, "late arrives 7 2 ");
  EXPECT_EQ(first(x.gradient()->sum()), 1);
  EXPECT_EQ(first(other.gradient()->sum()), 3.5);

  log.clear();
  const Variable c = scale(ctx, x, 3, &log);
  const Variable d = late(ctx, x, &log);
  const Variable e = scale(ctx, other, 4, &log);
  x.gradient()->clear();
  recorded.tape.backward(ctx, add(ctx, add(ctx, c, d), e), 1.0);
  EXPECT_EQ(log, "4 late 3 arrives ");
  EXPECT_EQ(first(x.gradient()->sum()), 4);
}

TEST(Tape, ALeafsGradientHasArrivedAfterTheBackward) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  std::string log;
  const Variable x = Variable::leaf(filled(ctx, {2}, 3));
  recorded.tape.backward(ctx, late(ctx, x, &log), filled(ctx, {2}, 5));
  EXPECT_EQ(log, "late arrives ");
  EXPECT_FALSE(x.gradient()->is_on_its_way());
  EXPECT_EQ(first(x.gradient()->sum()), 5);

  // One that is there already is added to at once, and a later one finds both.
  x.gradient()->add_later(ctx, [&] { return filled(ctx, {2}, 2); });
  EXPECT_EQ(first(x.gradient()->sum()), 7);
  x.gradient()->clear();
  x.gradient()->add_later(ctx, [&] { return filled(ctx, {2}, 4); });
  EXPECT_TRUE(x.gradient()->defined());
  x.gradient()->add(ctx, filled(ctx, {2}, 1));
  EXPECT_EQ(first(x.gradient()->sum()), 5);
  x.gradient()->clear();
  x.gradient()->add_later(ctx, [&] { return filled(ctx, {3}, 4); });
  EXPECT_THROW(x.gradient()->sum(), Error);  // of another shape
}

TEST(Tape, SumsOverAFanOut) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Variable x = Variable::leaf(filled(ctx, {2, 3}, 1));
  const Variable y = add(ctx, add(ctx, scale(ctx, x, 2), scale(ctx, x, 3)), x);
  recorded.tape.backward(ctx, y, filled(ctx, {2, 3}, 10));
  EXPECT_TRUE(bitwise_equal(x.gradient()->sum(), filled(ctx, {2, 3}, 60)));
}

TEST(Tape, AddsContributionsInReverseOrderOfTheForward) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Variable x = Variable::leaf(filled(ctx, {1}, 1));
  // The gradient of x when it is used three times, with these derivatives.
  auto gradient = [&](double a, double b, double c) {
    x.gradient()->clear();
    const Variable uses[] = {scale(ctx, x, a), scale(ctx, x, b), scale(ctx, x, c)};
    recorded.tape.backward(ctx, add(ctx, add(ctx, uses[0], uses[1]), uses[2]), 1.0);
    return first(x.gradient()->sum());
  };
  // The 1 survives only if the large terms cancel before it arrives.
  EXPECT_EQ(gradient(1, -1e20, 1e20), 1.0);
  EXPECT_EQ(gradient(1e20, -1e20, 1), 0.0);
  EXPECT_EQ(gradient(1e20, 1, -1e20), 0.0);
}

TEST(Tape, NeverChangesAGradientThatSomethingElseStillHolds) {
  // add() hands the same tensor to both inputs; adding more to one of them must not reach the other
  // or the caller's own tensor.
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Variable a = Variable::leaf(filled(ctx, {4}, 1)), b = Variable::leaf(filled(ctx, {4}, 1));
  const Tensor seed = filled(ctx, {4}, 7);
  const Variable doubled = scale(ctx, a, 2);
  recorded.tape.backward(ctx, add(ctx, add(ctx, a, b), doubled), seed);
  EXPECT_TRUE(bitwise_equal(a.gradient()->sum(), filled(ctx, {4}, 21)));
  EXPECT_TRUE(bitwise_equal(b.gradient()->sum(), filled(ctx, {4}, 7)));
  EXPECT_TRUE(bitwise_equal(seed, filled(ctx, {4}, 7)));
  // In-place accumulation starts from a copy as well.
  Tensor& own = b.gradient()->accumulate_into(ctx);
  own.fill_zero();
  EXPECT_TRUE(bitwise_equal(seed, filled(ctx, {4}, 7)));
}

TEST(Tape, ParametersSumInFp32WhateverTheComputeType) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Variable w = Variable::leaf(filled(ctx, {1, 1}, 1, DType::kBF16));
  EXPECT_EQ(w.gradient()->dtype(), DType::kF32);
  // 1 + 2^-12 + 2^-12: bf16 would lose both small terms.
  for (const double value : {1.0, 0x1p-12, 0x1p-12}) {
    const Variable y = linear(ctx, filled(ctx, {1, 1}, value, DType::kBF16), w);
    recorded.tape.backward(ctx, y, filled(ctx, {1, 1}, 1, DType::kBF16));
  }
  EXPECT_EQ(first(w.gradient()->sum()), 1.0 + 0x1p-11);
}

TEST(Tape, RecordsNothingWithoutATapeOrWithoutAGradientToWant) {
  Context plain;
  const Variable x = Variable::leaf(filled(plain, {3}, 1));
  EXPECT_FALSE(scale(plain, x, 2).requires_grad());
  TapeContext recorded;
  const Variable constant(filled(plain, {3}, 1));
  EXPECT_FALSE(scale(recorded.ctx, constant, 2).requires_grad());
  EXPECT_EQ(recorded.tape.num_nodes(), 0u);
  EXPECT_TRUE(scale(recorded.ctx, x, 2).requires_grad());
  EXPECT_EQ(recorded.tape.num_nodes(), 1u);
}

TEST(Tape, FreesWhatANodeSavedAsSoonAsItIsPassed) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const int64_t count = 1 << 16, bytes = count * 8;
  const Variable x = Variable::leaf(filled(ctx, {count}, 1));
  Variable y = x;
  for (int i = 0; i < 20; ++i) y = scale(ctx, y, 1.5);
  // The leaf, the last value, and 20 saved copies; values between are already gone.
  EXPECT_EQ(ctx.memory->live_bytes(), 22 * bytes);
  ctx.memory->reset_peak();
  recorded.tape.backward(ctx, y, filled(ctx, {count}, 1));
  // Gradients live only between neighbours.
  EXPECT_LE(ctx.memory->peak_bytes(), 25 * bytes);
  y = Variable();
  EXPECT_EQ(ctx.memory->live_bytes(), 2 * bytes);
}

TEST(Tape, VisitsSavedTensorsByNameInTheOrderOfTheForward) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Variable x = Variable::leaf(random_tensor(ctx, {3, 2}, 1));
  const Variable w = Variable::leaf(random_tensor(ctx, {4, 2}, 2));
  linear(ctx, scale(ctx, x, 2), w);
  std::string seen;
  int64_t bytes = 0;
  recorded.tape.visit_saved([&](std::string_view node, std::string_view name, Tensor& tensor) {
    seen += fmt::format("{}.{}{} ", node, name, shape_string(tensor.shape()));
    bytes += tensor.num_bytes();
  });
  EXPECT_EQ(seen, "scale.x[3, 2] linear.x_TI[3, 2] linear.w_OI[4, 2] ");
  EXPECT_EQ(bytes, (6 + 6 + 8) * 8);
}

TEST(Tape, StartsFromAnyTensorAndKeepsCallersTape) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Variable x = Variable::leaf(filled(ctx, {2, 3}, 1));
  const Variable y = reshape(ctx, scale(ctx, x, 2), {3, 2});
  const Tensor seed = random_tensor(ctx, {3, 2}, 5);
  recorded.tape.backward(ctx, y, seed);
  EXPECT_EQ(ctx.tape, &recorded.tape);
  for (int64_t i = 0; i < 6; ++i)
    EXPECT_EQ(x.gradient()->sum().data<double>()[i], 2 * seed.data<double>()[i]);
}

TEST(Tape, RefusesALossThatWasNotRecordedOrIsNotOneElement) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  const Variable constant(filled(ctx, {1}, 1));
  EXPECT_THROW(recorded.tape.backward(ctx, constant), Error);
  const Variable x = Variable::leaf(filled(ctx, {2}, 1));
  EXPECT_THROW(recorded.tape.backward(ctx, scale(ctx, x, 2)), Error);
  EXPECT_THROW(x.gradient()->add(ctx, filled(ctx, {3}, 1)), Error);
}

TEST(Tape, NamesTheOpWhoseOutputIsNotFinite) {
  TapeContext recorded;
  Context& ctx = recorded.ctx;
  ctx.check_finite = true;
  const Variable x = Variable::leaf(filled(ctx, {5}, 1e200));
  const Scope layer(ctx, "layers.3"), mlp(ctx, "mlp");
  testing::expect_error(ErrorCode::kNonFinite,
                        {"layers.3.mlp: output of op `scale`", "inf at element 0 of shape [5]"},
                        [&] { scale(ctx, x, 1e200); });
}

TEST(Gradient, IsUpdatedInPlaceOnlyWhereNothingElseViewsTheSum) {
  Context ctx;
  Gradient gradient({3}, DType::kF64);
  const Gradient::Update begun = gradient.begin_update(ctx);
  EXPECT_FALSE(begun.before.defined());
  std::fill_n(begun.after.data<double>(), 3, 2.0);
  EXPECT_EQ(begun.after.raw(), gradient.sum().raw());
  {
    const Gradient::Update viewed = gradient.begin_update(ctx);  // `begun` still views the sum
    EXPECT_EQ(viewed.before.raw(), begun.after.raw());
    EXPECT_NE(viewed.after.raw(), begun.after.raw());
    viewed.after.copy_from(viewed.before);
  }
  const std::byte* const sum = gradient.sum().raw();
  const Gradient::Update in_place = gradient.begin_update(ctx);
  EXPECT_EQ(in_place.before.raw(), sum);
  EXPECT_EQ(in_place.after.raw(), sum);
  EXPECT_EQ(first(gradient.sum()), 2);
}

}  // namespace
}  // namespace longship
