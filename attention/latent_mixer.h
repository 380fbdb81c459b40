// Multi-head latent attention as a mixer (MLA; DeepSeek-V2, arXiv 2405.04434; without positions in
// Kimi Linear, arXiv 2510.26692). Of a token, all heads share one latent vector and a few key
// features, from which the keys and values of each head are expanded.
//
//   q       = x Wq^T,  or  norm(x Wqa^T) Wqb^T           a head: N features, then R that rotate
//   [a | r] = x Wkva^T,  c = norm(a)                      latent of C features, R that rotate
//   k_h     = [c Wk_h^T | rope(r)],  v_h = c Wv_h^T       Wkvb has Wk_h, then Wv_h, of each head
//   y       = attend([q_N | rope(q_R)], k, v) Wo^T        scores scaled by 1 / sqrt(N + R)
//
// Rotation is in the "rotate half" form of runtime/ops/rope.h. DeepSeek's checkpoints have the
// pairs side by side: there, the R rows of each head of q_proj (q_b_proj) and of
// kv_a_proj_with_mqa come here in the order 0, 2, 4, .., 1, 3, 5, .. Kimi Linear does not rotate,
// so that its checkpoints fit as they are.
//
// To make one: LatentMixer(options, "model.layers.3", parameters, schedule, rope_angles), the
// schedule make_gather_latent(sp, kernel) for strategy "gather_latent", and for any strategy of
// softmax attention make_expanded_latent(that softmax schedule).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attention/shared_rope_angles.h"
#include "parallel/latent_schedule.h"
#include "runtime/model/mixer.h"

namespace longship {

struct LatentMixerOptions {
  int64_t hidden_size = 0;          // E
  int64_t num_heads = 0;            // H
  int64_t q_lora_rank = 0;          // of the compressed queries; 0 = q_proj does it at once
  int64_t kv_lora_rank = 512;       // C
  int64_t qk_nope_head_size = 128;  // N
  int64_t qk_rope_head_size = 64;   // R, even if rotated
  int64_t v_head_size = 128;        // V
  double rope_theta = 10000.0;      // 0 = no position embedding: the R features do not turn
  double norm_eps = 1e-6;
  double init_std = 0.02;
  int64_t num_layers = 1;  // Wo starts at init_std / sqrt(2 num_layers)

  // What cannot be built, one line for each option that is wrong; empty when all is well.
  std::vector<std::string> problems() const;
};

class LatentMixer final : public Mixer {
 public:
  // Registers below <prefix>.self_attn, as DeepSeek and Kimi Linear do: q_proj.weight [H (N + R),
  // E], or q_a_proj.weight [q_lora_rank, E], q_a_layernorm.weight and q_b_proj.weight;
  // kv_a_proj_with_mqa.weight [C + R, E], kv_a_layernorm.weight [C], kv_b_proj.weight [H (N + V),
  // C], o_proj.weight [E, H V]. Throws Error(kConfig) listing options.problems().
  LatentMixer(const LatentMixerOptions& options, const std::string& prefix,
              ParameterList& parameters, std::shared_ptr<const LatentSchedule> schedule,
              std::shared_ptr<SharedRopeAngles> rope_angles);

  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                   const Variable& residual_TE) override;

 private:
  Variable queries(Context& ctx, const Variable& x_TE, const SequencePlan& plan) const;
  // The normed latent, then the turned features that the keys of all heads share.
  Variable latent(Context& ctx, const Variable& x_TE, const SequencePlan& plan) const;
  // x_THX with R features from `first` on turned to the tokens' positions.
  Variable turned(Context& ctx, const Variable& x_THX, int64_t first,
                  const SequencePlan& plan) const;

  LatentMixerOptions options_;
  std::shared_ptr<const LatentSchedule> schedule_;
  std::shared_ptr<SharedRopeAngles> rope_angles_;
  Variable q_OE_;                          // without q_lora_rank
  Variable q_a_QE_, q_a_norm_Q_, q_b_OQ_;  // with it
  Variable kv_a_LE_, kv_a_norm_C_, kv_b_OC_, o_EO_;
};

}  // namespace longship
