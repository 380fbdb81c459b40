#include "parallel/state_chain.h"

#include <algorithm>

namespace longship {

StateChain::StateChain(const Context& ctx, Group group, const SequencePlan& plan, Scan scan)
    : ctx_(ctx), group_(std::move(group)), scan_(std::move(scan)) {
  scan_.num_blocks = std::clamp<int64_t>(scan_.zero_states_NHKV.dim(3), 1, scan_.num_blocks);
  for (const StateLink& link : state_links(plan, scan_.direction)) {
    num_rounds_ = std::max(num_rounds_, link.depth + scan_.num_blocks);
    if (link.from_rank == plan.rank() || link.to_rank == plan.rank()) links_.push_back(link);
  }
}

int64_t StateChain::first_column(int64_t block) const {
  return scan_.zero_states_NHKV.dim(3) * block / scan_.num_blocks;
}

Tensor StateChain::columns(const Tensor& state_HKV, int64_t block) const {
  const int64_t begin = first_column(block);
  return state_HKV.slice(2, begin, first_column(block + 1) - begin);
}

void StateChain::post() {
  const Tensor& states_NHKV = scan_.zero_states_NHKV;
  const Shape& shape = states_NHKV.shape();
  auto state = [&](int64_t row) {
    return states_NHKV.slice(0, row, 1).reshape({shape[1], shape[2], shape[3]});
  };
  std::vector<P2P> batch;
  for (const StateLink& link : links_) {
    const int64_t block = next_round_ - link.depth;
    if (block < 0 || block >= scan_.num_blocks) continue;
    if (link.from_rank == group_.rank()) {
      const Tensor from_HKV = columns(state(link.from), block);
      const Tensor out_HKV = ctx_.empty(from_HKV.shape(), from_HKV.dtype());
      scan_.leave(ctx_, link.from, first_column(block), link.depth > 0 ? from_HKV : Tensor(),
                  out_HKV);
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
    if (next_round_ == num_rounds_) return std::move(scan_.zero_states_NHKV);
    post();
  }
}

}  // namespace longship
