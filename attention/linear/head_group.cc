#include "attention/linear/head_group.h"

#include "attention/linear/linear_schedule.h"
#include "runtime/ops/accumulate.h"

namespace longship {

HeadGroup::HeadGroup(HeadRoute route, int64_t heads_per_key_head) : route_(std::move(route)) {
  const HeadRange& heads = route_.mine.query;
  for (int64_t head = heads.begin; head < heads.end(); ++head)
    key_head_.push_back(head / heads_per_key_head - route_.mine.kv.begin);
}

LinearInput HeadGroup::as_kernel_takes(const Context& ctx, LinearInput whole) const {
  if (follows_rule()) return whole;
  for (Tensor* x : {&whole.q_TGK, &whole.k_TGK}) *x = repeated(ctx, *x);
  return whole;
}

void HeadGroup::join_copies(const Context& ctx, LinearGradients& gradients) const {
  if (follows_rule()) return;
  for (Tensor* dx : {&gradients.dq_TGK, &gradients.dk_TGK}) *dx = summed(ctx, *dx);
}

bool HeadGroup::follows_rule() const {
  const auto heads = static_cast<int64_t>(key_head_.size()), key_heads = route_.mine.kv.count;
  if (heads == 0) return true;
  if (heads % key_heads != 0) return false;
  for (int64_t h = 0; h < heads; ++h)
    if (key_head_[static_cast<size_t>(h)] != h / (heads / key_heads)) return false;
  return true;
}

Tensor HeadGroup::repeated(const Context& ctx, const Tensor& x_SgK) const {
  const auto heads = static_cast<int64_t>(key_head_.size());
  const Tensor x_ShK = ctx.empty({x_SgK.dim(0), heads, x_SgK.dim(2)}, x_SgK.dtype());
  for (int64_t h = 0; h < heads; ++h)
    x_ShK.slice(1, h, 1).copy_from(x_SgK.slice(1, key_head_[static_cast<size_t>(h)], 1));
  return x_ShK;
}

Tensor HeadGroup::summed(const Context& ctx, const Tensor& dx_ShK) const {
  const Tensor dx_SgK =
      ctx.zeros({dx_ShK.dim(0), route_.mine.kv.count, dx_ShK.dim(2)}, dx_ShK.dtype());
  for (int64_t h = 0; h < dx_ShK.dim(1); ++h)
    accumulate(ctx, dx_SgK.slice(1, key_head_[static_cast<size_t>(h)], 1),
               dx_ShK.slice(1, h, 1).contiguous());
  return dx_SgK;
}

std::vector<HeadGroup> make_head_groups(const Group& sp, const SequencePlan& plan,
                                        int64_t num_key_heads, int64_t num_heads) {
  std::vector<HeadGroup> groups;
  for (const auto& shares :
       in_groups(deal_heads(num_heads, num_key_heads, sp.size()), kMaxUlyssesGroups))
    groups.emplace_back(HeadRoute::of(sp, plan.rows_in_group(sp.size()), shares),
                        num_heads / num_key_heads);
  return groups;
}

}  // namespace longship
