#include "attention/linear/decay_kernel.h"

#include "attention/linear/decay_backward.h"
#include "attention/linear/decay_forward.h"

namespace longship {

std::unique_ptr<LinearForward> DecayKernel::forward(Context& ctx, const LinearInput& input,
                                                    std::span<const Segment> segments,
                                                    std::span<const int64_t> cut) const {
  LinearProblem problem(input, segments, cut, WriteRule::kAdd);
  if (problem.sums == DType::kF64)
    return std::make_unique<DecayForward<double>>(ctx, std::move(problem));
  return std::make_unique<DecayForward<float>>(ctx, std::move(problem));
}

std::unique_ptr<LinearBackward> DecayKernel::backward(Context& ctx, const LinearInput& input,
                                                      std::span<const Segment> segments,
                                                      std::span<const int64_t> cut,
                                                      const Tensor& states_NHKV,
                                                      const Tensor& do_THV) const {
  LinearProblem problem(input, segments, cut, WriteRule::kAdd);
  if (problem.sums == DType::kF64)
    return std::make_unique<DecayBackward<double>>(ctx, std::move(problem), states_NHKV, do_THV);
  return std::make_unique<DecayBackward<float>>(ctx, std::move(problem), states_NHKV, do_THV);
}

}  // namespace longship
