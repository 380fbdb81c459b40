#include "runtime/autograd/tape.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
#include "runtime/ops/non_finite_cuda.h"

namespace longship {

Tensor Node::grad_output(Context& ctx, size_t i) const {
  const Gradient& gradient = *outputs_[i];
  return gradient.defined() ? gradient.sum() : ctx.zeros(gradient.shape(), gradient.dtype());
}

void Tape::append(const Context& ctx, std::unique_ptr<Node> node,
                  std::vector<std::shared_ptr<Gradient>> inputs,
                  std::vector<std::shared_ptr<Gradient>> outputs) {
  node->scope_ = ctx.scope;
  node->inputs_ = std::move(inputs);
  node->outputs_ = std::move(outputs);
  nodes_.push_back(std::move(node));
}

void Tape::backward(Context& ctx, const Variable& loss, double seed) {
  LONGSHIP_CHECK(loss.value().numel() == 1, "loss has shape {}", shape_string(loss.shape()));
  const Tensor grad = Tensor::empty(std::make_shared<Memory>(), loss.shape(), loss.dtype());
  dispatch_floating(grad.dtype(), [&](auto tag) {
    using T = decltype(tag);
    *grad.data<T>() = static_cast<T>(static_cast<Accumulator<T>>(seed));
  });
  backward(ctx, loss, upload(ctx, grad));
}

void Tape::backward(Context& ctx, const Variable& output, Tensor grad_output) {
  LONGSHIP_CHECK(output.requires_grad(), "backward from a tensor that was not recorded");
  output.gradient()->add(ctx, std::move(grad_output));
  run(ctx);
}

void Tape::run(Context& ctx) {
  // Nothing that a backward calls may be recorded on the tape being walked.
  Tape* const recording = std::exchange(ctx.tape, nullptr);
  std::string scope = ctx.scope;
  std::vector<std::shared_ptr<Gradient>> late;
  try {
    while (!nodes_.empty()) {
      std::unique_ptr<Node> node = std::move(nodes_.back());
      nodes_.pop_back();
      const bool reached = std::any_of(node->outputs_.begin(), node->outputs_.end(),
                                       [](const auto& gradient) { return gradient->defined(); });
      if (!reached) continue;
      ctx.scope = node->scope_;
      node->backward(ctx);
      if (ctx.check_finite) {
        for (const auto& gradient : node->inputs_)
          if (gradient && gradient->defined())
            check_finite(ctx, fmt::format("gradient of an input of op `{}`", node->name()),
                         gradient->sum());
      }
      for (const auto& gradient : node->inputs_)
        if (gradient && gradient->is_on_its_way()) late.push_back(gradient);
      for (const auto& gradient : node->outputs_) gradient->clear();
    }
    for (const auto& gradient : late) gradient->sum();
  } catch (...) {
    nodes_.clear();
    ctx.tape = recording;
    ctx.scope = std::move(scope);
    throw;
  }
  ctx.tape = recording;
  ctx.scope = std::move(scope);
}

void Tape::visit_saved(
    const std::function<void(std::string_view, std::string_view, Tensor&)>& visit) const {
  for (const auto& node : nodes_)
    node->visit_saved(
        [&](std::string_view name, Tensor& tensor) { visit(node->name(), name, tensor); });
}

bool is_recording(const Context& ctx, std::initializer_list<const Variable*> inputs) {
  return ctx.tape != nullptr &&
         std::any_of(inputs.begin(), inputs.end(),
                     [](const Variable* variable) { return variable->requires_grad(); });
}

namespace {

std::vector<Variable> finish(Context& ctx, const char* op_name, std::vector<Tensor> outputs,
                             std::unique_ptr<Node> node,
                             std::vector<std::shared_ptr<Gradient>> inputs) {
  if (ctx.check_finite)
    for (const Tensor& output : outputs)
      check_finite(ctx, fmt::format("output of op `{}`", op_name), output);
  std::vector<Variable> variables;
  std::vector<std::shared_ptr<Gradient>> gradients;
  for (Tensor& output : outputs) {
    if (node == nullptr) {
      variables.emplace_back(std::move(output));
      continue;
    }
    gradients.push_back(std::make_shared<Gradient>(output.shape(), output.dtype()));
    variables.emplace_back(std::move(output), gradients.back());
  }
  if (node != nullptr)
    ctx.tape->append(ctx, std::move(node), std::move(inputs), std::move(gradients));
  return variables;
}

}  // namespace

std::vector<Variable> record(Context& ctx, const char* op_name, std::vector<Tensor> outputs,
                             std::unique_ptr<Node> node,
                             std::initializer_list<const Variable*> inputs) {
  std::vector<std::shared_ptr<Gradient>> gradients;
  for (const Variable* input : inputs) gradients.push_back(input->gradient());
  return finish(ctx, op_name, std::move(outputs), std::move(node), std::move(gradients));
}

std::vector<Variable> record(Context& ctx, const char* op_name, std::vector<Tensor> outputs,
                             std::unique_ptr<Node> node, const std::vector<Variable>& inputs) {
  std::vector<std::shared_ptr<Gradient>> gradients;
  for (const Variable& input : inputs) gradients.push_back(input.gradient());
  return finish(ctx, op_name, std::move(outputs), std::move(node), std::move(gradients));
}

Variable record(Context& ctx, const char* op_name, Tensor output, std::unique_ptr<Node> node,
                std::initializer_list<const Variable*> inputs) {
  return record(ctx, op_name, std::vector<Tensor>{std::move(output)}, std::move(node), inputs)[0];
}

namespace {

// The index of the first NaN or infinity of a packed tensor, -1 if there is none.
int64_t first_non_finite_cpu(const Tensor& packed) {
  int64_t first = -1;
  dispatch_floating(packed.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* data = packed.data<T>();
    for (int64_t i = 0; i < packed.numel() && first < 0; ++i)
      if (!std::isfinite(static_cast<Accumulator<T>>(data[i]))) first = i;
  });
  return first;
}

// The host waits for it.
int64_t first_non_finite_cuda(const Tensor& packed) {
  const Tensor first = Tensor::empty(packed.memory(), {1}, DType::kI64);
  first.memory()->fill(first.address(), 0xff, first.num_bytes());
  non_finite_cuda({.dtype = packed.dtype(),
                   .num_elements = packed.numel(),
                   .data = packed.address(),
                   .first = reinterpret_cast<uint64_t*>(first.device_data<int64_t>())},
                  first.memory()->stream()->handle());
  return *first.to(std::make_shared<Memory>()).data<int64_t>();
}

}  // namespace

void check_finite(const Context& ctx, std::string_view what, const Tensor& tensor) {
  if (!is_floating(tensor.dtype())) return;
  const Tensor packed = tensor.contiguous();
  int64_t bad = -1;
  dispatch_device(
      packed, [&] { bad = first_non_finite_cpu(packed); },
      [&] { bad = first_non_finite_cuda(packed); });
  if (bad < 0) return;
  const Tensor element = packed.reshape({-1}).slice(0, bad, 1).to(DType::kF64);
  const double value = *element.to(std::make_shared<Memory>()).data<double>();
  throw Error(ErrorCode::kNonFinite,
              {.what = fmt::format("{}{}{}", ctx.scope, ctx.scope.empty() ? "" : ": ", what),
               .expected = "finite values",
               .found = fmt::format("{} at element {} of shape {}", value, bad,
                                    shape_string(tensor.shape())),
               .next = "lower optim.learning_rate, or look at the batch of this step"});
}

}  // namespace longship
