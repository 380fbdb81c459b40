// Softmax attention as a mixer: grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) as
// in Llama and Qwen.
//
//   q, k, v = x Wq^T (+ bq), x Wk^T (+ bk), x Wv^T (+ bv)
//   q, k    = rope(norm(q)), rope(norm(k))                norm per head (Qwen3) or of all heads
//                                                         together (OLMo 2), if asked for
//   o       = attend(q, k, v)                             scores scaled by 1 / sqrt(D)
//   o       = o * sigmoid(g)                              gate (Qwen3-Next), if asked for; Wq has
//                                                         the rows of q, g of each head in turn
//   y       = o Wo^T (+ bo)
//
// RoPE turns by positions within documents before attention: so the anchor's key keeps position 0
// whoever looks at it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "attention/shared_rope_angles.h"
#include "parallel/softmax_schedule.h"
#include "runtime/model/mixer.h"
#include "runtime/model/norm.h"

namespace longship {

struct SoftmaxMixerOptions {
  int64_t hidden_size = 0;   // E
  int64_t num_heads = 0;     // H
  int64_t num_kv_heads = 0;  // K; H % K == 0
  int64_t head_size = 0;     // D, of queries, keys and values
  bool qkv_bias = false;     // Qwen2
  bool output_bias = false;
  bool qk_norm = false;               // Qwen3
  bool qk_norm_across_heads = false;  // with qk_norm: of all heads together (OLMo 2)
  double norm_eps = 1e-6;
  bool zero_centered_norms = false;  // see NormStyle
  double rope_theta = 10000.0;       // 0 = no position embedding
  int64_t rotary_dim = 0;            // leading features of a head that rotate, even; 0 = all
  bool output_gate = false;          // Qwen3-Next
  int64_t window = 0;                // keys a query sees, itself included; 0 = all
  bool causal = true;                // false: both directions, and the window on both sides
  int64_t num_sink_tokens = 0;       // of each document, visible beyond the window; needs a window
  bool anchor = false;               // the batch's first token is visible to all documents
  bool sink_logits = false;          // one learned logit per query head (gpt-oss)
  double init_std = 0.02;
  int64_t num_layers = 1;  // Wo starts at init_std / sqrt(2 num_layers)

  // What cannot be built, one line for each option that is wrong; empty when all is well.
  std::vector<std::string> problems() const;
};

class SoftmaxMixer final : public Mixer {
 public:
  // Registers below <prefix>.self_attn, as Llama and Qwen do: {q,k,v,o}_proj.weight [out, in],
  // .bias [out], {q,k}_norm.weight [D] (across heads: [H D] and [K D]) and sinks [H]. With an
  // output gate q_proj has 2 H D outputs. Throws Error(kConfig) listing options.problems().
  SoftmaxMixer(const SoftmaxMixerOptions& options, const std::string& prefix,
               ParameterList& parameters, std::shared_ptr<const SoftmaxSchedule> schedule,
               std::shared_ptr<SharedRopeAngles> rope_angles);

  Variable forward(Context& ctx, const Variable& x_TE, const SequencePlan& plan,
                   const Variable& residual_TE) override;

 private:
  struct Projection {
    Variable weight_OI;
    Variable bias_O;  // undefined without one
  };

  // Projected and cut into heads of `size` features.
  Variable heads(Context& ctx, const Variable& x_TE, const Projection& projection,
                 int64_t size) const;
  // Queries or keys, normed if there is a norm, and turned.
  Variable turned(Context& ctx, Variable heads_THD, const Norm& norm,
                  const SequencePlan& plan) const;

  SoftmaxMixerOptions options_;
  std::shared_ptr<const SoftmaxSchedule> schedule_;
  std::shared_ptr<SharedRopeAngles> rope_angles_;
  Projection q_, k_, v_, o_;
  Norm q_norm_, k_norm_;  // undefined without qk_norm
  Variable sinks_H_;      // undefined without sink_logits
};

}  // namespace longship
