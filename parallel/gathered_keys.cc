#include "parallel/gathered_keys.h"

#include <algorithm>

#include "runtime/ops/accumulate.h"

namespace longship {
namespace {

Tensor rows_of(const Tensor& x, RowRange rows) {
  return x.slice(0, rows.begin, rows.count);
}

void add(std::vector<P2P>& batch, P2P::Kind kind, int peer, Tensor rows) {
  if (rows.dim(0) > 0) batch.push_back({kind, peer, std::move(rows)});  // both sides know
}

}  // namespace

GatheredKeys GatheredKeys::of(const SequencePlan& plan, const Visibility& visibility) {
  GatheredKeys keys;
  std::vector<Segment> held;
  for (int peer = 0; peer < plan.num_ranks(); ++peer) {
    const RowRange rows = visibility.between(plan.rank(), peer).keys;
    for (Segment& segment : segments_in(plan.segments(peer), rows)) {
      segment.slot += keys.num_rows;
      held.push_back(segment);
    }
    keys.parts.push_back({keys.num_rows, rows});
    keys.num_rows += rows.count;
  }
  std::ranges::sort(held, {}, &Segment::global_begin);
  for (const Segment& next : held) {
    if (!keys.segments.empty()) {
      Segment& last = keys.segments.back();
      if (last.document == next.document && last.position + last.length == next.position &&
          last.slot + last.length == next.slot) {
        last.length += next.length;
        continue;
      }
    }
    keys.segments.push_back(next);
  }
  return keys;
}

KeyTraffic::KeyTraffic(const Group& sp, const SequencePlan& plan, const Visibility& visibility)
    : sp_(sp), plan_(plan), keys_(GatheredKeys::of(plan, visibility)) {
  for (int peer = 0; peer < plan.num_ranks(); ++peer)
    seen_by_.push_back(visibility.between(peer, plan.rank()).keys);
}

Tensor KeyTraffic::part_of(const Tensor& gathered, int peer) const {
  const GatheredKeys::Part& part = keys_.parts[static_cast<size_t>(peer)];
  return rows_of(gathered, {part.first_row, part.rows.count});
}

Work KeyTraffic::gather(std::string_view label, const std::vector<Tensor>& local,
                        const std::vector<Tensor>& gathered) const {
  std::vector<P2P> batch;
  for (int peer = 0; peer < plan_.num_ranks(); ++peer)
    for (size_t i = 0; i < local.size(); ++i) {
      const Tensor sent = rows_of(local[i], seen_by(peer));
      const Tensor received = part_of(gathered[i], peer);
      if (peer == plan_.rank()) {
        received.copy_from(sent);
        continue;
      }
      add(batch, P2P::Kind::kSend, peer, sent);
      add(batch, P2P::Kind::kReceive, peer, received);
    }
  return sp_.exchange(label, std::move(batch));
}

KeyTraffic::Return KeyTraffic::start_return(const Context& ctx, std::string_view label,
                                            std::vector<Tensor> gradients) const {
  Return back{.gradients = std::move(gradients),
              .arrived = std::vector<std::vector<Tensor>>(static_cast<size_t>(plan_.num_ranks())),
              .work = {}};
  std::vector<P2P> batch;
  for (int peer = 0; peer < plan_.num_ranks(); ++peer) {
    if (peer == plan_.rank()) continue;
    for (const Tensor& gradient : back.gradients) {
      Shape shape = gradient.shape();
      shape[0] = seen_by(peer).count;
      const Tensor arriving = ctx.empty(std::move(shape), gradient.dtype());
      back.arrived[static_cast<size_t>(peer)].push_back(arriving);
      add(batch, P2P::Kind::kSend, peer, part_of(gradient, peer));
      add(batch, P2P::Kind::kReceive, peer, arriving);
    }
  }
  back.work = sp_.exchange(label, std::move(batch));
  return back;
}

void KeyTraffic::finish_return(const Context& ctx, Return back,
                               const std::vector<Tensor>& sums) const {
  back.work.wait();
  for (int peer = 0; peer < plan_.num_ranks(); ++peer)
    for (size_t i = 0; i < sums.size(); ++i)
      accumulate(ctx, rows_of(sums[i], seen_by(peer)),
                 peer == plan_.rank() ? part_of(back.gradients[i], peer)
                                      : back.arrived[static_cast<size_t>(peer)][i]);
}

}  // namespace longship
