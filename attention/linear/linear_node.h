// What the schedules of linear layers have in common around their kernels: the inputs of attend()
// as tensors, and the tape node that gives them their gradients.
#pragma once

#include "attention/linear/linear_schedule.h"

namespace longship {

// The values of `input`, contiguous.
LinearInput packed(const LinearAttentionInput& input);

// The inputs of the node are those of LinearAttentionInput, in its order.
class LinearNode : public Node {
 protected:
  SequencePlan plan;
  const LinearKernel& kernel;  // outlives the tape

  LinearNode(const SequencePlan& of_tokens, const LinearKernel& of_call)
      : plan(of_tokens), kernel(of_call) {}

  // The tensors of an input that is kept: that of the node, or what a schedule made of it.
  static void visit_input(const SavedVisitor& visit, LinearInput& input);

  // Adds those that are defined to the gradients of the inputs that want them.
  void add(Context& ctx, LinearGradients gradients);
};

// Whether attend() has to record a node.
bool is_recording(const Context& ctx, const LinearAttentionInput& input);
// Ends attend() with o [T, H, V].
Variable record(Context& ctx, const char* name, Tensor o_THV, std::unique_ptr<LinearNode> node,
                const LinearAttentionInput& input);

}  // namespace longship
