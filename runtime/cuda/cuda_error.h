// From error codes of the CUDA runtime to Error.
#pragma once

#include <string_view>

namespace longship {

// `status` is a cudaError_t. Unless it is cudaSuccess, throws Error(kOutOfMemory), Error(kConfig)
// for a missing or unfit GPU or driver, or else Error(kInternal), naming the operation, the GPU and
// CUDA's own words. `operation` completes "cannot ...": "copy 3 MiB from the host".
void check_cuda(int status, std::string_view operation);

// After a kernel launch: throws if it could not be enqueued. Errors inside a kernel are found by a
// later operation, and then the message says so.
void check_launch(std::string_view kernel);

}  // namespace longship
