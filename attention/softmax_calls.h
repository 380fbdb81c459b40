// Softmax attention of any block by a kernel that computes rectangles: a block's mask becomes
// rounds of attention calls (attention/call_plan.h), whose results are merged and added here.
#pragma once

#include <memory>
#include <optional>

#include "attention/call_plan.h"
#include "attention/cuda/call_kernel.h"
#include "parallel/softmax_block.h"

namespace longship {

// Implements SoftmaxBlock. The kernel gives o and gradients in the dtype of q. Where one call has
// all of a tensor's rows, it writes the tensor itself; otherwise partial outputs are merged and
// partial gradients added in the accumulator dtype, in the order of the plan.
class SoftmaxCalls final : public SoftmaxBlock {
 public:
  using SoftmaxBlock::forward;

  // Plans are made with `options` (whose `backward` is not looked at), by default with those that
  // are fastest for the head size.
  explicit SoftmaxCalls(std::unique_ptr<const CallKernel> kernel,
                        const std::optional<CallPlanOptions>& options = {})
      : kernel_(std::move(kernel)), options_(options) {}

  DType output_dtype(DType dtype) const override { return dtype; }
  RowTerm row_term() const override { return RowTerm::kOutput; }
  SoftmaxBlockOutput forward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                             DType o_dtype) const override;
  void backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                const SoftmaxBlockBackward& gradients) const override;

 private:
  CallPlanOptions plan_options(bool backward, const SoftmaxBlockInput& input) const;

  std::unique_ptr<const CallKernel> kernel_;
  std::optional<CallPlanOptions> options_;
};

}  // namespace longship
