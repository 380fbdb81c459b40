#include "attention/linear/delta_kernel.h"

#include "attention/linear/delta_backward.h"
#include "attention/linear/delta_forward.h"

namespace longship {

std::unique_ptr<LinearForward> DeltaKernel::forward(Context& ctx, const LinearInput& input,
                                                    std::span<const Segment> segments,
                                                    std::span<const int64_t> cut) const {
  LinearProblem problem(input, segments, cut, WriteRule::kDelta);
  if (problem.sums == DType::kF64)
    return std::make_unique<DeltaForward<double>>(ctx, std::move(problem));
  return std::make_unique<DeltaForward<float>>(ctx, std::move(problem));
}

std::unique_ptr<LinearBackward> DeltaKernel::backward(Context& ctx, const LinearInput& input,
                                                      std::span<const Segment> segments,
                                                      std::span<const int64_t> cut,
                                                      const Tensor& states_NHKV,
                                                      const Tensor& do_THV) const {
  LinearProblem problem(input, segments, cut, WriteRule::kDelta);
  if (problem.sums == DType::kF64)
    return std::make_unique<DeltaBackward<double>>(ctx, std::move(problem), states_NHKV, do_THV);
  return std::make_unique<DeltaBackward<float>>(ctx, std::move(problem), states_NHKV, do_THV);
}

}  // namespace longship
