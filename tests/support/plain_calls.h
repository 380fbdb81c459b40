// Attention calls by plain loops over all pairs of a call's entries, in fp64.
#pragma once

#include "attention/cuda/call_kernel.h"

namespace longship::testing {

// Whether query i of an entry sees its key j.
bool call_sees(const CallMask& mask, const CallEntry& rows, int64_t i, int64_t j);

// Fails the test if a call breaks the promises of attention/cuda/attention_call.h.
class PlainCalls final : public CallKernel {
 public:
  void forward(Context& ctx, const AttentionCall& call, const CallForward& op) const override;
  void backward(Context& ctx, const AttentionCall& call, const CallBackward& op) const override;
};

}  // namespace longship::testing
