// Sums over the threads that share a row.
#pragma once

namespace longship {

// The sum over the group of `threads_per_row` neighbouring threads that this thread is in, a power
// of two up to 32 or a multiple of 32 up to 1024; all of them get it, always with the same bits.
// Groups of more than a warp, up to 15 in a block, wait for their own threads only; they need
// `scratch` shared and `parity` alternating from call to call.
__device__ inline float row_sum(float value, int threads_per_row, float (&scratch)[2][32],
                                int parity) {
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int step = min(threads_per_row, 32) / 2; step > 0; step /= 2)
    value += __shfl_xor_sync(kAll, value, step);
  if (threads_per_row <= 32) return value;
  if (lane == 0) scratch[parity][warp] = value;
  // One barrier a call is enough: the other half of scratch may still be read, this one no more.
  // Barrier 0 is that of __syncthreads().
  const int barrier = 1 + static_cast<int>(threadIdx.x) / threads_per_row;
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads_per_row) : "memory");
  const int num_warps = threads_per_row / 32;
  value = lane < num_warps ? scratch[parity][warp / num_warps * num_warps + lane] : 0.0f;
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
  return value;
}

}  // namespace longship
