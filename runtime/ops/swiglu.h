// y = silu(gate) * up, elementwise on [T, F] tensors (Shazeer 2020). Computed in fp32 (fp64).
#pragma once

#include "runtime/autograd/tape.h"

namespace longship {

Variable swiglu(Context& ctx, const Variable& gate_TF, const Variable& up_TF);

}  // namespace longship
