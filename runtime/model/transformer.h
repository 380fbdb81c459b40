// A decoder-only transformer as a stack of pre-norm blocks over abstract mixers:
//
//   h = embedding[tokens];  for each block:  h += mixer(norm(h));  h += mlp(norm(h))
//   loss = sum over tokens of  weight * cross_entropy(norm(h) @ head^T, target)
//
// Parameter names and shapes are those of Llama and Qwen checkpoints.
#pragma once

#include <memory>
#include <vector>

#include "runtime/model/mixer.h"

namespace longship {

struct TransformerShape {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;        // E
  int64_t intermediate_size = 0;  // SwiGLU width
  int64_t num_layers = 0;
  double norm_eps = 1e-5;
  double init_std = 0.02;
  bool tied_embeddings = true;
  bool recompute = false;  // keep only each block's input, and run it again in the backward
  int64_t loss_chunk_tokens = 1024;
};

class Transformer {
 public:
  Transformer(const TransformerShape& shape, const MixerFactory& make_mixer,
              ParameterList& parameters);
  ~Transformer();

  // tokens_T: i32 local token ids. Returns the normed final hidden states [T, E].
  Variable hidden_states(Context& ctx, const Tensor& tokens_T, const SequencePlan& plan);

  // Sum over the local tokens of loss_weight * cross-entropy in nats: a [1] tensor in fp32 (fp64).
  // targets_T: i32, ignored where loss_weights_T (fp32) is 0.
  Variable loss_sum(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                    const Tensor& loss_weights_T, const SequencePlan& plan);

  // Per-token cross-entropy [T] in fp32 (nats), without recording; for evaluation.
  Tensor token_losses(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                      const SequencePlan& plan);

  // Logits [N, V] of the given rows of hidden states, for generation. V is the vocabulary.
  Tensor logits(Context& ctx, const Tensor& hidden_NE);

  const TransformerShape& shape() const { return shape_; }

 private:
  class Block;

  TransformerShape shape_;
  Variable embedding_VE_;
  Variable norm_E_;
  Variable head_VE_;
  std::vector<std::unique_ptr<Block>> blocks_;
};

}  // namespace longship
