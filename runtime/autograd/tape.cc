#include "runtime/autograd/tape.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/gpu.h"

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
      for (const auto& gradient : node->outputs_) gradient->clear();
    }
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

void check_finite(const Context& ctx, std::string_view what, const Tensor& tensor) {
  if (!is_floating(tensor.dtype())) return;
  if (!tensor.has_elements()) return;
  const bool on_gpu = tensor.device().kind == DeviceKind::kCuda;
  const Tensor packed = (on_gpu ? tensor.to(std::make_shared<Memory>()) : tensor).contiguous();
  int64_t bad = -1;
  double value = 0;
  dispatch_floating(packed.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const T* data = packed.data<T>();
    for (int64_t i = 0; i < packed.numel() && bad < 0; ++i) {
      if (!std::isfinite(static_cast<Accumulator<T>>(data[i]))) {
        bad = i;
        value = static_cast<double>(data[i]);
      }
    }
  });
  if (bad < 0) return;
  throw Error(ErrorCode::kNonFinite,
              {.what = fmt::format("{}{}{}", ctx.scope, ctx.scope.empty() ? "" : ": ", what),
               .expected = "finite values",
               .found = fmt::format("{} at element {} of shape {}", value, bad,
                                    shape_string(tensor.shape())),
               .next = "lower optim.learning_rate, or look at the batch of this step"});
}

}  // namespace longship
