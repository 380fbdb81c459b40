#include "tests/support/mixer_model.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"
#include "tests/support/leaf_gradients.h"
#include "tests/support/op_check.h"
#include "tests/support/whole_batch.h"

namespace longship::testing {
namespace {

Context threaded(int num_threads) {
  Context ctx;
  ctx.num_threads = num_threads;
  return ctx;
}

}  // namespace

MixerModel::MixerModel(const Make& make, int64_t hidden_size, DType dtype, SequencePlan of_batch,
                       int num_threads)
    : ctx(threaded(num_threads)),
      parameters(ctx, dtype, /*seed=*/5),
      plan(std::move(of_batch)),
      mixer(make(parameters)) {
  for (Parameter& parameter : parameters.all())
    if (!parameter.decay || parameter.name.ends_with("norm.weight"))
      parameter.master.copy_from(
          random_tensor(ctx, parameter.master.shape(), parameter.name.size()));
  parameters.refresh_compute_copies();
  const Shape shape = {plan.num_tokens(), hidden_size};
  x_TE = Variable::leaf(plan.shard(ctx, random_tensor(ctx, shape, 1).to(dtype)));
  dy_TE = plan.shard(ctx, random_tensor(ctx, shape, 2).to(dtype));
}

Tensor MixerModel::forward_and_backward() {
  Tape tape;
  ctx.tape = &tape;
  const Variable y_TE = mixer->forward(ctx, x_TE, plan);
  tape.backward(ctx, y_TE, dy_TE);
  ctx.tape = nullptr;
  return y_TE.value();
}

double MixerModel::loss() {
  const Tensor y_TE = mixer->forward(ctx, x_TE, plan).value();
  double sum = 0;
  for (int64_t i = 0; i < y_TE.numel(); ++i)
    sum += y_TE.data<double>()[i] * dy_TE.data<double>()[i];
  return sum;
}

std::vector<std::pair<std::string, Variable>> MixerModel::leaves() {
  std::vector<std::pair<std::string, Variable>> all = {{"x", x_TE}};
  for (Parameter& parameter : parameters.all())
    all.emplace_back(parameter.name, parameter.variable);
  return all;
}

Tensor MixerModel::parameter(const std::string& name) const {
  const Parameter* found = parameters.find(name);
  LONGSHIP_CHECK(found != nullptr, "no parameter {}", name);
  return found->master;
}

MixerResults whole_results(MixerModel& model, const Group& sp) {
  MixerResults results = {{"y", gather(model.ctx, sp, model.plan, model.forward_and_backward())}};
  for (const auto& [name, leaf] : model.leaves()) {
    const Tensor sum = leaf.gradient()->accumulate_into(model.ctx);
    if (name == "x") {
      results.emplace_back(name, gather(model.ctx, sp, model.plan, sum));
    } else {
      sp.all_reduce("test.sum", sum).wait();
      results.emplace_back(name, sum);
    }
  }
  return results;
}

void check_mixer_gradients(MixerModel& model, std::string_view without_effect) {
  model.forward_and_backward();
  check_leaf_gradients(
      model.leaves(), [&] { return model.loss(); }, without_effect);
}

void check_mixer_precision(const MakeMixerModel& make, DType dtype, double bound,
                           std::string_view cancelling) {
  MixerModel low = make(dtype, 1), wide = make(DType::kF64, 1);
  const auto low_leaves = low.leaves(), wide_leaves = wide.leaves();
  for (size_t i = 0; i < low_leaves.size(); ++i) {
    const Tensor rounded = wide_leaves[i].second.value().to(DType::kBF16);
    low_leaves[i].second.value().copy_from(rounded);
    wide_leaves[i].second.value().copy_from(rounded);
  }
  low.dy_TE = wide.dy_TE.to(DType::kBF16).to(dtype);
  wide.dy_TE = low.dy_TE.to(DType::kF64);
  const Tensor y_TE = low.forward_and_backward();
  EXPECT_EQ(y_TE.dtype(), dtype);
  EXPECT_LE(relative_rms(y_TE, wide.forward_and_backward()), bound) << dtype_name(dtype);
  for (size_t i = 0; i < low_leaves.size(); ++i) {
    const auto& [name, leaf] = low_leaves[i];
    if (name == cancelling) continue;
    EXPECT_LE(relative_rms(leaf.gradient()->sum(), wide_leaves[i].second.gradient()->sum()), bound)
        << dtype_name(dtype) << " " << name;
  }
}

void check_mixer_thread_invariance(const MakeMixerModel& make) {
  MixerModel one = make(DType::kF32, 1);
  const Tensor expected = one.forward_and_backward();
  const auto wanted = one.leaves();
  for (int num_threads : {2, 5}) {
    MixerModel many = make(DType::kF32, num_threads);
    EXPECT_TRUE(bitwise_equal(many.forward_and_backward(), expected)) << num_threads << " threads";
    const auto found = many.leaves();
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_TRUE(
          bitwise_equal(found[i].second.gradient()->sum(), wanted[i].second.gradient()->sum()))
          << found[i].first << " on " << num_threads << " threads";
  }
}

}  // namespace longship::testing
