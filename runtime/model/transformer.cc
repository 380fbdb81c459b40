#include "runtime/model/transformer.h"

#include "runtime/autograd/backward_hook.h"
#include "runtime/autograd/recompute.h"
#include "runtime/model/decoder_block.h"
#include "runtime/ops/embedding.h"
#include "runtime/ops/linear_cross_entropy.h"
#include "runtime/ops/matmul.h"

namespace longship {

Transformer::Transformer(const TransformerShape& shape, const MixerFactory& make_mixer,
                         ParameterList& parameters)
    : shape_(shape) {
  const Shape table{shape.vocab_size, shape.hidden_size};
  const Initializer matrix{.a = shape.init_std};
  embedding_VE_ = parameters.add("model.embed_tokens.weight", table, matrix, /*decay=*/false);
  for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
    first_parameters_.push_back(parameters.all().size());
    blocks_.push_back(std::make_unique<DecoderBlock>(shape, layer, make_mixer, parameters));
  }
  norm_ = Norm(parameters, "model.norm", shape.hidden_size, shape.norm_style());
  head_VE_ = shape.tied_embeddings
                 ? embedding_VE_
                 : parameters.add("lm_head.weight", table, matrix, /*decay=*/true);
}

Transformer::~Transformer() = default;

Variable Transformer::hidden_states(Context& ctx, const Tensor& tokens_T, const SequencePlan& plan,
                                    const GradientsComplete& complete) {
  Variable h_TE = embedding(ctx, embedding_VE_, tokens_T);
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    Scope scope(ctx, fmt::format("layers.{}", layer));
    if (complete)
      h_TE = backward_hook(ctx, h_TE, [&complete, first = first_parameters_[layer]](Context& then) {
        complete(then, first);
      });
    const auto block = [&block = *blocks_[layer], &plan](Context& block_ctx, const Variable& x_TE) {
      return block.forward(block_ctx, x_TE, plan);
    };
    h_TE = recompute(ctx, block, h_TE, shape_.recompute);
  }
  Scope scope(ctx, "norm");
  return norm_.forward(ctx, h_TE);
}

Variable Transformer::loss_sum(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                               const Tensor& loss_weights_T, const SequencePlan& plan,
                               const GradientsComplete& complete) {
  const Variable h_TE = hidden_states(ctx, tokens_T, plan, complete);
  Scope scope(ctx, "loss");
  return linear_cross_entropy(ctx, h_TE, head_VE_, targets_T, loss_weights_T,
                              shape_.loss_chunk_tokens);
}

Tensor Transformer::token_losses(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                                 const SequencePlan& plan) {
  Context inference = ctx;
  inference.tape = nullptr;
  const Variable h_TE = hidden_states(inference, tokens_T, plan);
  Scope scope(inference, "loss");
  return token_cross_entropy(inference, h_TE.value(), head_VE_.value(), targets_T,
                             shape_.loss_chunk_tokens);
}

Tensor Transformer::logits(Context& ctx, const Tensor& hidden_NE) {
  const Tensor logits_NV =
      ctx.empty({hidden_NE.dim(0), shape_.vocab_size}, accumulator_dtype(hidden_NE.dtype()));
  matmul(ctx, hidden_NE, head_VE_.value().transpose(0, 1), logits_NV);
  return logits_NV;
}

}  // namespace longship
