// Keys and values of multi-head latent attention, expanded from the latents of any rows for some of
// the heads, and the way of their gradients back. Outside the tape; shapes as in latent_schedule.h,
// for S rows.
#pragma once

#include "parallel/head_range.h"
#include "parallel/key_value.h"
#include "parallel/latent_schedule.h"

namespace longship {

// The sizes of one call, read from its tensors and checked once.
struct LatentShape {
  int64_t num_tokens = 0;   // T, on this rank
  int64_t num_heads = 0;    // H
  int64_t latent_size = 0;  // C
  int64_t shared_size = 0;  // R
  int64_t nope_size = 0;    // N
  int64_t value_size = 0;   // V
  DType dtype = DType::kF32;
  DType accumulator = DType::kF32;

  int64_t row_size() const { return latent_size + shared_size; }  // L
  int64_t head_size() const { return nope_size + shared_size; }   // D

  // Throws Error(kInternal) unless the inputs fit together, are of one floating dtype, and T is
  // what `plan` gives to this rank.
  static LatentShape of(const LatentAttentionInput& input, const SequencePlan& plan);
};

class LatentExpansion {
 public:
  LatentExpansion(const LatentShape& shape, const Tensor& expand_OC)
      : shape_(shape), expand_OC_(expand_OC) {}

  // From latent_SL, contiguous.
  KeyValue expand(Context& ctx, const Tensor& latent_SL, HeadRange heads) const;

  // Adds to dlatent_SL (accumulator dtype) and to dexpand_OC, each unless it is undefined, what the
  // gradients of keys and values give; those come in the dtype of the latents or the accumulator's.
  void add_gradients(Context& ctx, const Tensor& latent_SL, HeadRange heads,
                     const KeyValue& gradients, const Tensor& dlatent_SL,
                     const Tensor& dexpand_OC) const;

 private:
  // The rows of a matrix like expand_OC that make the keys of a head, and its values.
  Tensor key_rows(const Tensor& matrix_OC, int64_t head) const;
  Tensor value_rows(const Tensor& matrix_OC, int64_t head) const;

  LatentShape shape_;
  Tensor expand_OC_;
};

}  // namespace longship
