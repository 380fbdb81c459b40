// The tape: what happened in the forward, in order, so that the backward can walk it in reverse.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/autograd/variable.h"

namespace longship {

// One recorded op. A subclass holds a named struct of what its backward needs:
//
//   struct RmsNormNode final : Node {
//     struct Saved { Tensor x_TE, weight_E, rstd_T; } saved;
//     const char* name() const override { return "rms_norm"; }
//     void backward(Context& ctx) override;                  // input(i)->add(ctx, ...)
//     void visit_saved(const SavedVisitor& visit) override;  // visit("x_TE", saved.x_TE); ...
//   };
class Node {
 public:
  using SavedVisitor = std::function<void(std::string_view name, Tensor& tensor)>;

  virtual ~Node() = default;
  virtual const char* name() const = 0;

  // Called once, when at least one output has a gradient, in the scope of the forward. Reads
  // grad_output(i), adds to the gradients of those inputs that want one.
  virtual void backward(Context& ctx) = 0;

  // Every tensor kept for the backward, so that recomputation, offload and memory planning can
  // count and move them.
  virtual void visit_saved(const SavedVisitor& visit) = 0;

 protected:
  // Null when input i is a constant.
  const std::shared_ptr<Gradient>& input(size_t i) const { return inputs_[i]; }
  size_t num_inputs() const { return inputs_.size(); }
  // The gradient that reached output i; zeros if none did.
  Tensor grad_output(Context& ctx, size_t i = 0) const;

 private:
  friend class Tape;
  std::string scope_;  // Context::scope of the forward, in force again in the backward
  std::vector<std::shared_ptr<Gradient>> inputs_;
  std::vector<std::shared_ptr<Gradient>> outputs_;
};

class Tape {
 public:
  // Walks the tape backwards from `loss` (one element), seeding its gradient with `seed`. Nodes
  // are freed as they are passed; the tape is empty afterwards, and no gradient is on its way.
  void backward(Context& ctx, const Variable& loss, double seed = 1.0);
  // The same from any tensor and its gradient.
  void backward(Context& ctx, const Variable& output, Tensor grad_output);

  void append(const Context& ctx, std::unique_ptr<Node> node,
              std::vector<std::shared_ptr<Gradient>> inputs,
              std::vector<std::shared_ptr<Gradient>> outputs);
  void clear() { nodes_.clear(); }
  size_t num_nodes() const { return nodes_.size(); }
  // Calls visit(node name, tensor name, tensor) for everything saved.
  void visit_saved(
      const std::function<void(std::string_view, std::string_view, Tensor&)>& visit) const;

 private:
  void run(Context& ctx);

  std::vector<std::unique_ptr<Node>> nodes_;
};

// Whether an op on these inputs has to be recorded.
bool is_recording(const Context& ctx, std::initializer_list<const Variable*> inputs);

// Ends an op: wraps its output values in Variables and, with a node, records it. Pass a null node
// when is_recording() was false. Checks for non-finite values when ctx.check_finite is set.
std::vector<Variable> record(Context& ctx, const char* op_name, std::vector<Tensor> outputs,
                             std::unique_ptr<Node> node,
                             std::initializer_list<const Variable*> inputs);
// The same for any number of inputs.
std::vector<Variable> record(Context& ctx, const char* op_name, std::vector<Tensor> outputs,
                             std::unique_ptr<Node> node, const std::vector<Variable>& inputs);
// The usual case of one output.
Variable record(Context& ctx, const char* op_name, Tensor output, std::unique_ptr<Node> node,
                std::initializer_list<const Variable*> inputs);

// Throws Error(kNonFinite) naming `what` and ctx.scope if a floating tensor holds NaN or infinity.
void check_finite(const Context& ctx, std::string_view what, const Tensor& tensor);

}  // namespace longship
