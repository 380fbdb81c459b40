// Element-wise reduction on a GPU in the order of ranks: the same bits as reduce_in_order().
#pragma once

#include <cstdint>

#include "parallel/reduce_op.h"
#include "runtime/cuda/handles.h"
#include "runtime/dtype.h"

namespace longship {

// out = ((part of rank 0 op part of rank 1) op part of rank 2) ...; `out` may be `own`. fp32, fp64,
// i32, i64.
struct RankReduceCuda {
  ReduceOp op = ReduceOp::kSum;
  DType dtype = DType::kF32;
  int64_t num_elements = 0;
  int rank = 0;
  int num_ranks = 0;
  const void* own = nullptr;     // the part of `rank`
  const void* others = nullptr;  // those of the other ranks, ascending
  int64_t others_stride = 0;     // elements from one of them to the next
  void* out = nullptr;
};
void rank_reduce_cuda(const RankReduceCuda& reduce, StreamHandle stream);

}  // namespace longship
