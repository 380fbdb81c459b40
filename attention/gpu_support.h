// What the attention kernels of GPUs can run.
#pragma once

#include <string>

#include "attention/registry.h"

namespace longship {

// Why a mixer that computes in `dtype` cannot run on a GPU; empty if it can.
std::string gpu_refusal(const MixerDescriptor& mixer, DType dtype);

}  // namespace longship
