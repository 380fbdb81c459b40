#include "parallel/latent_expansion.h"

#include "runtime/ops/accumulate.h"
#include "runtime/ops/matmul.h"

namespace longship {

LatentShape LatentShape::of(const LatentAttentionInput& input, const SequencePlan& plan) {
  const Tensor &q = input.q_THD.value(), &latent = input.latent_TL.value(),
               &expand = input.expand_OC.value();
  LONGSHIP_CHECK(q.rank() == 3 && latent.rank() == 2 && expand.rank() == 2 && q.dim(1) > 0,
                 "latent attention of q {}, latent {}, expansion {}", shape_string(q.shape()),
                 shape_string(latent.shape()), shape_string(expand.shape()));
  LatentShape shape{.num_tokens = q.dim(0),
                    .num_heads = q.dim(1),
                    .latent_size = expand.dim(1),
                    .shared_size = latent.dim(1) - expand.dim(1),
                    .dtype = q.dtype(),
                    .accumulator = accumulator_dtype(q.dtype())};
  shape.nope_size = q.dim(2) - shape.shared_size;
  shape.value_size = expand.dim(0) / q.dim(1) - shape.nope_size;
  LONGSHIP_CHECK(shape.num_tokens == plan.num_local_tokens() && latent.dim(0) == shape.num_tokens &&
                     shape.shared_size >= 0 && shape.nope_size > 0 && shape.value_size > 0 &&
                     expand.dim(0) == shape.num_heads * (shape.nope_size + shape.value_size),
                 "latent attention of q {}, latent {}, expansion {} on a rank with {} tokens",
                 shape_string(q.shape()), shape_string(latent.shape()),
                 shape_string(expand.shape()), plan.num_local_tokens());
  LONGSHIP_CHECK(
      is_floating(shape.dtype) && latent.dtype() == shape.dtype && expand.dtype() == shape.dtype,
      "latent attention of {} queries, {} latents and {} expansion", dtype_name(shape.dtype),
      dtype_name(latent.dtype()), dtype_name(expand.dtype()));
  return shape;
}

Tensor LatentExpansion::key_rows(const Tensor& matrix_OC, int64_t head) const {
  return matrix_OC.slice(0, head * (shape_.nope_size + shape_.value_size), shape_.nope_size);
}

Tensor LatentExpansion::value_rows(const Tensor& matrix_OC, int64_t head) const {
  return matrix_OC.slice(0, head * (shape_.nope_size + shape_.value_size) + shape_.nope_size,
                         shape_.value_size);
}

KeyValue LatentExpansion::expand(Context& ctx, const Tensor& latent_SL, HeadRange heads) const {
  const int64_t S = latent_SL.dim(0), N = shape_.nope_size, D = shape_.head_size();
  const int64_t V = shape_.value_size;
  const Tensor latent_SC = latent_SL.slice(1, 0, shape_.latent_size);
  const Tensor shared_SR = latent_SL.slice(1, shape_.latent_size, shape_.shared_size);
  // Heads side by side, so that each is a matrix.
  const Tensor k_SO = ctx.empty({S, heads.count * D}, shape_.dtype);
  const Tensor v_SO = ctx.empty({S, heads.count * V}, shape_.dtype);
  for (int64_t i = 0; i < heads.count; ++i) {
    const int64_t head = heads.begin + i;
    matmul(ctx, latent_SC, key_rows(expand_OC_, head).transpose(0, 1), k_SO.slice(1, i * D, N));
    k_SO.slice(1, i * D + N, shape_.shared_size).copy_from(shared_SR);
    matmul(ctx, latent_SC, value_rows(expand_OC_, head).transpose(0, 1), v_SO.slice(1, i * V, V));
  }
  return {k_SO.reshape({S, heads.count, D}), v_SO.reshape({S, heads.count, V})};
}

void LatentExpansion::add_gradients(Context& ctx, const Tensor& latent_SL, HeadRange heads,
                                    const KeyValue& gradients, const Tensor& dlatent_SL,
                                    const Tensor& dexpand_OC) const {
  const int64_t S = latent_SL.dim(0), N = shape_.nope_size, D = shape_.head_size();
  const int64_t C = shape_.latent_size, R = shape_.shared_size, V = shape_.value_size;
  const Tensor latent_SC = latent_SL.slice(1, 0, C);
  const Tensor dk_SO = gradients.k_SKD.reshape({S, heads.count * D});
  const Tensor dv_SO = gradients.v_SKV.reshape({S, heads.count * V});
  // Operands of products are rounded to the dtype of the latents, as those of every linear map.
  auto add_product = [&](const Tensor& d_SX, const Tensor& weight_XC, const Tensor& dweight_XC) {
    if (dlatent_SL.defined()) matmul(ctx, d_SX, weight_XC, dlatent_SL.slice(1, 0, C), true);
    if (dweight_XC.defined()) matmul(ctx, d_SX.transpose(0, 1), latent_SC, dweight_XC, true);
  };
  for (int64_t i = 0; i < heads.count; ++i) {
    const int64_t head = heads.begin + i;
    add_product(dk_SO.slice(1, i * D, N).to(shape_.dtype), key_rows(expand_OC_, head),
                dexpand_OC.defined() ? key_rows(dexpand_OC, head) : Tensor());
    add_product(dv_SO.slice(1, i * V, V).to(shape_.dtype), value_rows(expand_OC_, head),
                dexpand_OC.defined() ? value_rows(dexpand_OC, head) : Tensor());
    if (dlatent_SL.defined() && R > 0)
      accumulate(ctx, dlatent_SL.slice(1, C, R),
                 dk_SO.slice(1, i * D + N, R).to(shape_.accumulator).contiguous());
  }
}

}  // namespace longship
