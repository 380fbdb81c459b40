#include "parallel/gathered_keys.h"

#include <algorithm>

namespace longship {

KeyTraffic::KeyTraffic(const Group& sp, const SequencePlan& plan, const Visibility& visibility,
                       OwnKeys own)
    : sp_(sp) {
  std::vector<Segment> held;
  for (int peer = 0; peer < plan.num_ranks(); ++peer) {
    if (peer == plan.rank() && own == OwnKeys::kLeftInPlace) continue;
    for (RowRange rows : visibility.keys(plan.rank(), peer)) {
      for (Segment& segment : segments_in(plan.segments(peer), rows)) {
        segment.slot += keys_.num_rows;
        held.push_back(segment);
      }
      const RowRange gathered = {keys_.num_rows, rows.count};
      if (peer == plan.rank())
        own_.push_back({rows, gathered});
      else
        received_.push_back({peer, gathered});
      keys_.num_rows += rows.count;
    }
    if (peer == plan.rank()) continue;
    for (RowRange rows : visibility.keys(peer, plan.rank())) sent_.push_back({peer, rows});
  }
  keys_.segments = joined(std::move(held));
}

Work KeyTraffic::gather(std::string_view label, const TensorRows& local,
                        const TensorRows& gathered) const {
  std::vector<P2P> batch;
  for (const Transfer& sent : sent_) add_send(batch, sent.peer, slice(local, sent.rows));
  for (const Transfer& received : received_)
    add_receive(batch, received.peer, slice(gathered, received.rows));
  Work work = sp_.exchange(label, std::move(batch));
  for (const OwnCopy& own : own_) {
    const TensorRows from = slice(local, own.local), to = slice(gathered, own.gathered);
    for (size_t i = 0; i < to.size(); ++i) to[i].copy_from(from[i]);
  }
  return work;
}

KeyTraffic::Return KeyTraffic::start_return(const Context& ctx, std::string_view label,
                                            TensorRows gradients) const {
  Return back{.gradients = std::move(gradients), .arrived = {}, .work = {}};
  std::vector<P2P> batch;
  for (const Transfer& received : received_)
    add_send(batch, received.peer, slice(back.gradients, received.rows));
  for (const Transfer& sent : sent_) {
    back.arrived.push_back(empty_like(ctx, back.gradients, sent.rows.count));
    add_receive(batch, sent.peer, back.arrived.back());
  }
  back.work = sp_.exchange(label, std::move(batch));
  return back;
}

void KeyTraffic::finish_return(const Context& ctx, Return back, const TensorRows& sums) const {
  back.work.wait();
  auto add_arrived = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      accumulate(ctx, slice(sums, sent_[i].rows), back.arrived[i]);
  };
  const auto later =
      std::ranges::find_if(sent_, [&](const Transfer& sent) { return sent.peer > sp_.rank(); });
  const auto num_earlier = static_cast<size_t>(later - sent_.begin());
  add_arrived(0, num_earlier);
  for (const OwnCopy& own : own_)
    accumulate(ctx, slice(sums, own.local), slice(back.gradients, own.gathered));
  add_arrived(num_earlier, sent_.size());
}

}  // namespace longship
