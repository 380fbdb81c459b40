#include "parallel/state_chain.h"

#include <algorithm>

namespace longship {

StateChain::StateChain(const Context& ctx, Group group, const SequencePlan& plan, Scan scan)
    : ctx_(ctx), group_(std::move(group)), scan_(std::move(scan)) {
  scan_.summary = checked_summary(scan_.summary, plan);
  const Tensor& b_NHKV = scan_.summary.b_NHKV;
  scan_.num_blocks = std::clamp<int64_t>(b_NHKV.dim(3), 1, scan_.num_blocks);
  states_NHKV_ = ctx.zeros(b_NHKV.shape(), b_NHKV.dtype());
  for (const StateLink& link : state_links(plan, scan_.direction)) {
    num_rounds_ = std::max(num_rounds_, link.depth + scan_.num_blocks);
    if (link.from_rank == plan.rank() || link.to_rank == plan.rank()) links_.push_back(link);
  }
}

Tensor StateChain::columns(const Tensor& state_HKV, int64_t block) const {
  const int64_t V = state_HKV.dim(2);
  const int64_t begin = V * block / scan_.num_blocks, end = V * (block + 1) / scan_.num_blocks;
  return state_HKV.slice(2, begin, end - begin);
}

void StateChain::post() {
  const Shape& shape = states_NHKV_.shape();
  auto state = [&](int64_t row) {
    return states_NHKV_.slice(0, row, 1).reshape({shape[1], shape[2], shape[3]});
  };
  std::vector<P2P> batch;
  for (const StateLink& link : links_) {
    const int64_t block = next_round_ - link.depth;
    if (block < 0 || block >= scan_.num_blocks) continue;
    if (link.from_rank == group_.rank()) {
      AffineMap map = map_of(scan_.summary, link.from);
      map.b_HKV = columns(map.b_HKV, block);
      const Tensor in_HKV = link.depth > 0 ? columns(state(link.from), block) : Tensor();
      const Tensor out_HKV = ctx_.empty(map.b_HKV.shape(), map.b_HKV.dtype());
      apply(ctx_, map, scan_.direction, in_HKV, out_HKV);
      batch.push_back(P2P::send(link.to_rank, out_HKV));
    }
    if (link.to_rank == group_.rank()) {
      const Tensor place_HKV = columns(state(link.to), block);
      const Tensor block_HKV = ctx_.empty(place_HKV.shape(), place_HKV.dtype());
      batch.push_back(P2P::receive(link.from_rank, block_HKV));
      arrivals_.push_back({block_HKV, place_HKV});
    }
  }
  ++next_round_;
  work_ = group_.exchange(scan_.label, std::move(batch));
}

void StateChain::start() {
  if (num_rounds_ > 0) post();
}

Tensor StateChain::finish() {
  while (true) {
    work_.wait();
    for (const Arrival& arrival : arrivals_) arrival.place_HKV.copy_from(arrival.block_HKV);
    arrivals_.clear();
    if (next_round_ == num_rounds_) return std::move(states_NHKV_);
    post();
  }
}

}  // namespace longship
