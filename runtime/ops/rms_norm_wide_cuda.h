// RMSNorm on a GPU of rows that are too long, too many or not aligned: row_groups() gives no
// vectors for them, or an address is no multiple of 16. Each row is read twice.
#pragma once

#include "runtime/ops/rms_norm_cuda.h"

namespace longship {

void rms_norm_wide_forward_cuda(const RmsNormForwardCuda& op, StreamHandle stream);
// dx_RD and partials_BD; dweight_D is what the caller makes of these.
void rms_norm_wide_backward_cuda(const RmsNormBackwardCuda& op, StreamHandle stream);

}  // namespace longship
