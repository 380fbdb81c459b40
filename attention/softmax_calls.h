// Softmax attention of any block by a kernel that computes rectangles: a block's mask becomes
// rounds of attention calls (attention/call_plan.h), whose results are merged and added here.
#pragma once

#include <memory>

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

  // The plans of the backward differ from those of the forward by `options.backward` alone.
  explicit SoftmaxCalls(std::unique_ptr<const CallKernel> kernel,
                        const CallPlanOptions& options = {});

  DType output_dtype(DType dtype) const override { return dtype; }
  RowTerm row_term() const override { return RowTerm::kOutput; }
  SoftmaxBlockOutput forward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                             DType o_dtype) const override;
  void backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                const SoftmaxBlockBackward& gradients) const override;

 private:
  std::unique_ptr<const CallKernel> kernel_;
  CallPlanOptions forward_, backward_;
};

}  // namespace longship
