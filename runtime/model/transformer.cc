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
  const auto begin_unit = [&] { unit_begins_.push_back(parameters.all().size()); };
  begin_unit();
  embedding_VE_ = parameters.add("model.embed_tokens.weight", table, matrix, /*decay=*/false);
  for (int64_t layer = 0; layer < shape.num_layers; ++layer) {
    begin_unit();
    blocks_.push_back(std::make_unique<DecoderBlock>(shape, layer, make_mixer, parameters));
  }
  begin_unit();
  norm_ = Norm(parameters, "model.norm", shape.hidden_size, shape.norm_style());
  head_VE_ = embedding_VE_;
  if (shape.tied_embeddings) return;
  begin_unit();
  head_VE_ = parameters.add("lm_head.weight", table, matrix, /*decay=*/true);
}

Transformer::~Transformer() = default;

template <class F>
Variable Transformer::in_unit(Context& ctx, size_t unit, const Variable& x, const F& f) {
  ParameterUse* const use = use_;
  if (use == nullptr) return f(x);
  // The backward comes by these hooks in the opposite order.
  const Variable entry =
      backward_hook(ctx, x, [use, unit](Context& backward) { use->end_backward(backward, unit); });
  const Variable y = in_forward_of(ctx, unit, [&] { return f(entry); });
  return backward_hook(ctx, y,
                       [use, unit](Context& backward) { use->begin_backward(backward, unit); });
}

template <class F>
auto Transformer::in_forward_of(Context& ctx, size_t unit, const F& f) {
  if (use_ != nullptr) use_->begin_forward(ctx, unit);
  auto result = f();
  if (use_ != nullptr) use_->end_forward(ctx, unit);
  return result;
}

// The backward of the embedding reads no value.
Variable Transformer::hidden_states(Context& ctx, const Tensor& tokens_T,
                                    const SequencePlan& plan) {
  Variable h_TE = in_forward_of(ctx, 0, [&] { return embedding(ctx, embedding_VE_, tokens_T); });
  for (size_t layer = 0; layer < blocks_.size(); ++layer) {
    Scope scope(ctx, fmt::format("layers.{}", layer));
    const auto block = [&block = *blocks_[layer], &plan](Context& block_ctx, const Variable& x_TE) {
      return block.forward(block_ctx, x_TE, plan);
    };
    h_TE = in_unit(ctx, layer + 1, h_TE, [&](const Variable& x_TE) {
      return recompute(ctx, block, x_TE, shape_.recompute_of(static_cast<int64_t>(layer)));
    });
  }
  Scope scope(ctx, "norm");
  return in_unit(ctx, norm_unit(), h_TE,
                 [&](const Variable& x_TE) { return norm_.forward(ctx, x_TE); });
}

Variable Transformer::loss_sum(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                               const Tensor& loss_weights_T, const SequencePlan& plan) {
  Variable h_TE = hidden_states(ctx, tokens_T, plan);
  if (use_ != nullptr && head_unit() != 0)
    h_TE = backward_hook(ctx, h_TE, [use = use_, unit = head_unit()](Context& backward) {
      use->end_backward(backward, unit);
    });
  Scope scope(ctx, "loss");
  // Its backward reads no value of the head: the gradients are made in the forward.
  return in_forward_of(ctx, head_unit(), [&] {
    return linear_cross_entropy(ctx, h_TE, head_VE_, targets_T, loss_weights_T,
                                shape_.loss_chunk_tokens);
  });
}

Tensor Transformer::token_losses(Context& ctx, const Tensor& tokens_T, const Tensor& targets_T,
                                 const SequencePlan& plan) {
  Context inference = ctx;
  inference.tape = nullptr;
  const Variable h_TE = hidden_states(inference, tokens_T, plan);
  Scope scope(inference, "loss");
  return in_forward_of(inference, head_unit(), [&] {
    return token_cross_entropy(inference, h_TE.value(), head_VE_.value(), targets_T,
                               shape_.loss_chunk_tokens);
  });
}

Tensor Transformer::logits(Context& ctx, const Tensor& hidden_NE) {
  const Tensor logits_NV =
      ctx.empty({hidden_NE.dim(0), shape_.vocab_size}, accumulator_dtype(hidden_NE.dtype()));
  return in_forward_of(ctx, head_unit(), [&] {
    matmul(ctx, hidden_NE, head_VE_.value().transpose(0, 1), logits_NV);
    return logits_NV;
  });
}

}  // namespace longship
