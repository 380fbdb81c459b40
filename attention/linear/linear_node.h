// What the schedules of linear layers have in common around their kernels: the inputs of attend()
// as tensors, and the tape node that gives them their gradients.
#pragma once

#include "attention/linear/linear_schedule.h"

namespace longship {

// The values of `input`, contiguous.
LinearInput packed(const LinearAttentionInput& input);

// The inputs of the node are those of LinearAttentionInput, in its order. What a schedule saved
// instead of them, such as other heads, is in `saved`.
class LinearNode : public Node {
 public:
  void visit_saved(const SavedVisitor& visit) override;

 protected:
  struct Saved {
    LinearInput input;
    SequencePlan plan;
  } saved;
  const LinearKernel& kernel;  // outlives the tape

  LinearNode(LinearInput input, const SequencePlan& plan, const LinearKernel& of_call)
      : saved{std::move(input), plan}, kernel(of_call) {}

  // Adds those that are defined to the gradients of the inputs that want them.
  void add(Context& ctx, LinearGradients gradients);
};

// Whether attend() has to record a node.
bool is_recording(const Context& ctx, const LinearAttentionInput& input);
// Ends attend() with o [T, H, V].
Variable record(Context& ctx, const char* name, Tensor o_THV, std::unique_ptr<LinearNode> node,
                const LinearAttentionInput& input);

}  // namespace longship
