// Linear attention token by token, as its definition reads: the yardstick of the chunked kernels.
// Every token reads and writes the whole state; loops along V are left to the compiler.
#pragma once

#include <vector>

#include "attention/linear/chunk_decay.h"
#include "attention/linear/linear_kernel.h"
#include "runtime/context.h"
#include "runtime/vector_exp.h"

namespace longship {

// o [T, H, V] for one document from a state of zeros; fp32.
inline Tensor plain_recurrence(const Context& ctx, const LinearInput& input) {
  const int64_t T = input.v_THV.dim(0), H = input.v_THV.dim(1), V = input.v_THV.dim(2);
  const int64_t G = input.q_TGK.dim(1), K = input.q_TGK.dim(2);
  const GateKind gate = gate_kind(input.gate);
  const bool delta = input.beta_TH.defined();
  const float scale = static_cast<float>(input.scale);
  const Tensor o_THV = ctx.zeros({T, H, V}, DType::kF32);
  std::vector<float> state(static_cast<size_t>(K * V)), written(static_cast<size_t>(V)),
      decay(static_cast<size_t>(K), 1.0f);
  for (int64_t h = 0; h < H; ++h) {
    std::fill(state.begin(), state.end(), 0.0f);
    for (int64_t t = 0; t < T; ++t) {
      const int64_t row = t * H + h, key_row = t * G + h / (H / G);
      const float *q = input.q_TGK.data<float>() + key_row * K,
                  *k = input.k_TGK.data<float>() + key_row * K,
                  *v = input.v_THV.data<float>() + row * V;
      float *o = o_THV.data<float>() + row * V, *S = state.data(), *w = written.data();
      if (gate == GateKind::kVector) {
        const float* g = input.gate.data<float>() + row * K;
        for (int64_t d = 0; d < K; ++d) decay[static_cast<size_t>(d)] = vector_exp(g[d]);
      } else if (gate != GateKind::kNone) {
        const float g = input.gate.data<float>()[gate == GateKind::kConstant ? h : row];
        std::fill(decay.begin(), decay.end(), vector_exp(g));
      }
      std::copy_n(v, V, w);
      for (int64_t d = 0; delta && d < K; ++d) {
        const float factor = decay[static_cast<size_t>(d)] * k[d];
        for (int64_t j = 0; j < V; ++j) w[j] -= factor * S[d * V + j];
      }
      const float beta = delta ? input.beta_TH.data<float>()[row] : 1.0f;
      for (int64_t d = 0; d < K; ++d) {
        const float kept = decay[static_cast<size_t>(d)], factor = beta * k[d],
                    weight = scale * q[d];
        float* cells = S + d * V;
#pragma GCC ivdep
        for (int64_t j = 0; j < V; ++j) {
          cells[j] = kept * cells[j] + factor * w[j];
          o[j] += weight * cells[j];
        }
      }
    }
  }
  return o_THV;
}

}  // namespace longship
