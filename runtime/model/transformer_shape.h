// The sizes and choices that define a Transformer, apart from its mixers.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "runtime/autograd/kept_outputs.h"
#include "runtime/model/norm.h"

namespace longship {

// Standard deviation of the projections that write to the residual stream (o_proj, down_proj):
// each block adds two of them, so the stream's variance stays that of one (Radford et al. 2019).
inline double residual_init_std(double init_std, int64_t num_layers) {
  return init_std / std::sqrt(2.0 * static_cast<double>(num_layers));
}

struct TransformerShape {
  int64_t vocab_size = 0;         // V
  int64_t hidden_size = 0;        // E
  int64_t intermediate_size = 0;  // F, the SwiGLU width
  int64_t num_layers = 0;
  double norm_eps = 1e-5;
  bool zero_centered_norms = false;   // see NormStyle
  std::vector<bool> norm_after = {};  // by layer, see DecoderBlock; empty: all false
  double init_std = 0.02;
  bool tied_embeddings = true;
  // How much of a block runs again in the backward, and for how many blocks from the first on (0:
  // all); the others keep one level more.
  Recompute recompute = Recompute::kNone;
  int64_t recompute_layers = 0;
  int64_t loss_chunk_tokens = 1024;

  NormStyle norm_style() const { return {.eps = norm_eps, .zero_centered = zero_centered_norms}; }
  bool has_norm_after(int64_t layer) const {
    return !norm_after.empty() && norm_after[static_cast<size_t>(layer)];
  }
  Recompute recompute_of(int64_t layer) const {
    if (recompute_layers == 0 || layer < recompute_layers) return recompute;
    return recompute == Recompute::kBlock ? Recompute::kSelective : Recompute::kNone;
  }
};

}  // namespace longship
