// A decoder-only transformer as a stack of blocks over abstract mixers:
//
//   h = embedding[tokens];  for each block:  h += mixer(norm(h));  h += mlp(norm(h))
//   loss = sum over tokens of  weight * cross_entropy(norm(h) @ head^T, target)
//
// Parameter names and shapes are those of Llama and Qwen checkpoints: model.embed_tokens.weight
// [V, E], model.layers.<n>.*, model.norm.weight [E], and lm_head.weight [V, E] unless the head is
// the embedding. Initialised as their reference training does: matrices normal(0, init_std), those
// that write to the residual stream scaled down by sqrt(2 layers), norms 1. Weight decay spares
// norms and embeddings.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "runtime/model/mixer.h"
#include "runtime/model/transformer_shape.h"

namespace longship {

class DecoderBlock;

class Transformer {
 public:
  // Called in the backward with the number of a parameter: the gradients of this one and of all
  // that follow it in the list are complete, as far as this backward adds to them.
  using GradientsComplete = std::function<void(Context& ctx, size_t first_parameter)>;

  Transformer(const TransformerShape& shape, const MixerFactory& make_mixer,
              ParameterList& parameters);
  ~Transformer();

  // tokens_T: i32 local token ids. Returns the normed final hidden states [T, E]. With
  // shape().recompute the plan must live until the backward has run, and so must `complete`.
  Variable hidden_states(Context& ctx, const Tensor& tokens_T, const SequencePlan& plan,
                         const GradientsComplete& complete = {});

  // Sum over the local tokens of loss_weight * cross-entropy in nats: a [1] tensor in fp32 (fp64).
  // targets_T: i32, ignored where loss_weights_T (fp32) is 0.
  Variable loss_sum(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                    const Tensor& loss_weights_T, const SequencePlan& plan,
                    const GradientsComplete& complete = {});

  // Per-token cross-entropy [T] in fp32 (nats), without recording; for evaluation.
  Tensor token_losses(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                      const SequencePlan& plan);

  // Logits [N, V] in fp32 (fp64) of the given rows of hidden states, for generation.
  Tensor logits(Context& ctx, const Tensor& hidden_NE);

  const TransformerShape& shape() const { return shape_; }

 private:
  TransformerShape shape_;
  Variable embedding_VE_;
  std::vector<std::unique_ptr<DecoderBlock>> blocks_;
  std::vector<size_t> first_parameters_;  // of each block, as numbers in the list
  Norm norm_;
  Variable head_VE_;
};

}  // namespace longship
