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

#include <memory>
#include <vector>

#include "runtime/model/mixer.h"
#include "runtime/model/parameter_use.h"
#include "runtime/model/transformer_shape.h"

namespace longship {

class DecoderBlock;

class Transformer {
 public:
  Transformer(const TransformerShape& shape, const MixerFactory& make_mixer,
              ParameterList& parameters);
  ~Transformer();

  // `use` is told about every forward and backward from now on, and outlives them; null: nobody.
  void set_parameter_use(ParameterUse* use) { use_ = use; }
  // The numbers of the parameters with which units begin: the embedding, each block, the final norm
  // and, unless it is the embedding, the head.
  const std::vector<size_t>& unit_begins() const { return unit_begins_; }

  // tokens_T: i32 local token ids. Returns the normed final hidden states [T, E]. With
  // shape().recompute the plan must live until the backward has run.
  Variable hidden_states(Context& ctx, const Tensor& tokens_T, const SequencePlan& plan);

  // Sum over the local tokens of loss_weight * cross-entropy in nats: a [1] tensor in fp32 (fp64).
  // targets_T: i32, ignored where loss_weights_T (fp32) is 0.
  Variable loss_sum(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                    const Tensor& loss_weights_T, const SequencePlan& plan);

  // Per-token cross-entropy [T] in fp32 (nats), without recording; for evaluation.
  Tensor token_losses(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                      const SequencePlan& plan);

  // Logits [N, V] in fp32 (fp64) of the given rows of hidden states, for generation.
  Tensor logits(Context& ctx, const Tensor& hidden_NE);

  const TransformerShape& shape() const { return shape_; }

 private:
  size_t norm_unit() const { return blocks_.size() + 1; }
  size_t head_unit() const { return shape_.tied_embeddings ? 0 : norm_unit() + 1; }
  // f(x), which reads the parameters of `unit` in forward and backward.
  template <class F>
  Variable in_unit(Context& ctx, size_t unit, const Variable& x, const F& f);
  // f(), which reads them in the forward only.
  template <class F>
  auto in_forward_of(Context& ctx, size_t unit, const F& f);

  TransformerShape shape_;
  ParameterUse* use_ = nullptr;
  Variable embedding_VE_;
  std::vector<std::unique_ptr<DecoderBlock>> blocks_;
  std::vector<size_t> unit_begins_;
  Norm norm_;
  Variable head_VE_;
};

}  // namespace longship
