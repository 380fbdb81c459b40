#include "launch/micro_batch.h"

#include "runtime/autograd/tape.h"

namespace longship {
namespace {

template <class Seed>
Tensor run(Context& ctx, Transformer& transformer, const Batch& batch, const Seed& seed) {
  Tape tape;
  Context recording = ctx;
  recording.tape = &tape;
  const Variable loss = transformer.loss_sum(recording, batch.tokens_T, batch.targets_T,
                                             batch.loss_weights_T, batch.plan);
  tape.backward(recording, loss, seed);
  return loss.value();
}

}  // namespace

Tensor forward_backward(Context& ctx, Transformer& transformer, const Batch& batch, double seed) {
  return run(ctx, transformer, batch, seed);
}

Tensor forward_backward(Context& ctx, Transformer& transformer, const Batch& batch,
                        const Tensor& seed_1) {
  return run(ctx, transformer, batch, seed_1);
}

}  // namespace longship
