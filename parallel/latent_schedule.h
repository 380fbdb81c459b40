// A sequence-parallel schedule for multi-head latent attention (MLA; DeepSeek-V2, arXiv
// 2405.04434): local queries and compressed keys and values in, local attention output out.
//
// Of a token, all heads share a latent vector c and key features r; the keys and values of head h
// are
//     k_h = [Wk_h c | r],   v_h = Wv_h c.
//
// Shapes: T local tokens, H heads, C size of the latent, R shared features, L = C + R, N features
// of a key of its own head, D = N + R head size of queries and keys, V value size.
#pragma once

#include <memory>

#include "parallel/group.h"
#include "parallel/sequence_plan.h"
#include "parallel/softmax_schedule.h"

namespace longship {

struct LatentAttentionInput {
  Variable q_THD;
  Variable latent_TL;  // c, then r
  // [H (N + V), C]: of each head the rows Wk_h [N, C], then Wv_h [V, C].
  Variable expand_OC;
  double scale = 1.0;  // softmax(scale * q k^T)
};

class LatentSchedule {
 public:
  virtual ~LatentSchedule() = default;

  // Causal attention within documents, differentiable in all three inputs, which are of one
  // floating dtype; q_THD and latent_TL are the local tokens of `plan`. Returns o_THV in that
  // dtype. The gradient of expand_OC is that of the local queries: summed over the ranks, like that
  // of any weight, it is the whole. Throws Error(kInternal) for shapes that do not fit together.
  virtual Variable attend(Context& ctx, const LatentAttentionInput& input,
                          const SequencePlan& plan) const = 0;
};

// Expands keys and values of the local tokens for all heads and leaves the rest to a schedule of
// softmax attention with as many KV heads as heads: what travels are whole keys and values.
std::unique_ptr<LatentSchedule> make_expanded_latent(
    std::shared_ptr<const SoftmaxSchedule> schedule);

// "gather_latent": the latents travel, see gather_latent.cc. Expands this many heads at a time,
// > 0. `kernel` must outlive the schedule and every tape it recorded on.
std::unique_ptr<LatentSchedule> make_gather_latent(Group sp, const SoftmaxBlock& kernel,
                                                   int64_t heads_per_group = 1);

}  // namespace longship
