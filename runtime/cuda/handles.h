// Names of CUDA's own types, for headers that every build includes.
#pragma once

struct CUstream_st;
struct CUevent_st;
struct CUgraphExec_st;

namespace longship {

using StreamHandle = CUstream_st*;    // cudaStream_t
using EventHandle = CUevent_st*;      // cudaEvent_t
using GraphHandle = CUgraphExec_st*;  // cudaGraphExec_t

}  // namespace longship
