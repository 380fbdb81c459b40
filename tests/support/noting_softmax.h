// A softmax kernel that takes notes: which blocks a schedule asks it for, and when.
#pragma once

#include <functional>
#include <vector>

#include "parallel/softmax_block.h"

namespace longship::testing {

enum class Pass { kForward, kBackward };

class NotingSoftmax final : public SoftmaxBlock {
 public:
  // What there is to note of a block before `kernel`, which must outlive this, computes it.
  using Note = std::function<int64_t(Pass, const SoftmaxBlockInput&, const BlockMask&)>;

  explicit NotingSoftmax(
      const SoftmaxBlock& kernel,
      Note note = [](Pass, const SoftmaxBlockInput&, const BlockMask&) { return 0; })
      : kernel_(kernel), note_(std::move(note)) {}

  SoftmaxBlockOutput forward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                             DType o_dtype) const override {
    forward_notes.push_back(note_(Pass::kForward, input, mask));
    return kernel_.forward(ctx, input, mask, o_dtype);
  }
  void backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                const SoftmaxBlockBackward& gradients) const override {
    backward_notes.push_back(note_(Pass::kBackward, input, mask));
    kernel_.backward(ctx, input, mask, gradients);
  }

  mutable std::vector<int64_t> forward_notes, backward_notes;  // one for each block, in order

 private:
  const SoftmaxBlock& kernel_;
  Note note_;
};

}  // namespace longship::testing
