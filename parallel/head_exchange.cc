#include "parallel/head_exchange.h"

#include <algorithm>
#include <utility>

#include "parallel/message_rows.h"
#include "parallel/softmax_block.h"
#include "runtime/ops/accumulate.h"

namespace longship {
namespace {

// Query rows times heads in a group of heads that hide the latency of its messages, and on a GPU
// leave no multiprocessor idle.
constexpr int64_t kGroupRows = 1024;
constexpr int64_t kGpuGroupRows = 8 * 16384;

// On a GPU the last wave of blocks of a kernel leaves multiprocessors idle: each further group adds
// 0.5% to attention's time. Its messages take a part of that time that falls with the keys a query
// sees, 1.6% at 32K keys, of which n groups leave 1/n exposed: 2 n of them pay up to these keys
// over n^2. Measured on H200s joined by NVLink; over slower links more groups would pay.
constexpr double kKeysOfTwoGroups = 52 << 10;

// Whether several ranks have one head; ranges ascend.
bool overlap(const std::vector<HeadRange>& ranges) {
  int64_t next = 0;
  for (const HeadRange& range : ranges) {
    if (range.count == 0) continue;
    if (range.begin < next) return true;
    next = range.end();
  }
  return false;
}

std::vector<HeadRange> kv_ranges(const std::vector<HeadShare>& shares) {
  std::vector<HeadRange> ranges;
  for (const HeadShare& share : shares) ranges.push_back(share.kv);
  return ranges;
}

}  // namespace

std::vector<HeadShare> deal_heads(int64_t num_heads, int64_t num_kv_heads, int num_ranks) {
  const std::vector<int64_t> kv_head = grouped_kv_heads(num_heads, num_kv_heads);
  std::vector<HeadShare> shares;
  for (int rank = 0; rank < num_ranks; ++rank) {
    HeadShare share;
    share.query.begin = num_heads * rank / num_ranks;
    share.query.count = num_heads * (rank + 1) / num_ranks - share.query.begin;
    if (share.query.count > 0) {
      share.kv.begin = kv_head[static_cast<size_t>(share.query.begin)];
      share.kv.count = kv_head[static_cast<size_t>(share.query.end() - 1)] + 1 - share.kv.begin;
    }
    shares.push_back(share);
  }
  return shares;
}

int64_t num_groups_that_pay(DeviceKind device, int64_t head_rows, double keys_per_query) {
  const bool is_gpu = device == DeviceKind::kCuda;
  const int64_t large_enough =
      std::clamp<int64_t>(head_rows / (is_gpu ? kGpuGroupRows : kGroupRows), 1, kMaxUlyssesGroups);
  if (!is_gpu) return large_enough;
  int64_t num_groups = 1;
  while (2 * num_groups <= large_enough &&
         keys_per_query * static_cast<double>(num_groups * num_groups) <= kKeysOfTwoGroups)
    num_groups *= 2;
  return num_groups;
}

std::vector<std::vector<HeadShare>> in_groups(const std::vector<HeadShare>& shares,
                                              int64_t max_groups) {
  int64_t num_groups = overlap(kv_ranges(shares)) ? 1 : max_groups;
  for (const HeadShare& share : shares) num_groups = std::min(num_groups, share.kv.count);
  num_groups = std::max<int64_t>(num_groups, 1);
  if (num_groups == 1) return {shares};

  std::vector<std::vector<HeadShare>> groups(static_cast<size_t>(num_groups));
  for (const HeadShare& share : shares) {
    const int64_t queries_per_kv = share.query.count / share.kv.count;
    for (int64_t i = 0; i < num_groups; ++i) {
      const int64_t begin = share.kv.count * i / num_groups;
      const int64_t count = share.kv.count * (i + 1) / num_groups - begin;
      groups[static_cast<size_t>(i)].push_back(
          {.query = {share.query.begin + begin * queries_per_kv, count * queries_per_kv},
           .kv = {share.kv.begin + begin, count}});
    }
  }
  return groups;
}

HeadExchange::HeadExchange(Group group, std::shared_ptr<const GroupRows> rows,
                           std::vector<HeadRange> ranges)
    : group_(std::move(group)),
      rows_(std::move(rows)),
      ranges_(std::move(ranges)),
      is_shared_(overlap(ranges_)) {
  LONGSHIP_CHECK(
      std::ssize(rows_->of_rank) == group_.size() && std::ssize(ranges_) == group_.size(),
      "tokens of {} ranks and heads of {} in a group of {}", rows_->of_rank.size(), ranges_.size(),
      group_.size());
}

int64_t HeadExchange::num_local_tokens() const {
  int64_t count = 0;
  for (const GroupRows::Run& run : own_runs()) count += run.length;
  return count;
}

void HeadExchange::send_tokens_of(int rank, const Tensor& x_SNX, std::vector<P2P>& batch) const {
  for (const GroupRows::Run& run : runs_of(rank))
    batch.push_back(P2P::send(rank, x_SNX.slice(0, run.row, run.length)));
}

template <class F>
void HeadExchange::for_each_block(const Tensor& blocks, int64_t size, F&& f) const {
  const int64_t num_tokens = num_local_tokens();
  int64_t begin = 0;
  for (int rank = 0; rank < group_.size(); ++rank) {
    const Shape shape = {num_tokens, ranges_[static_cast<size_t>(rank)].count, size};
    f(rank, blocks.slice(0, begin, num_elements(shape)).reshape(shape));
    begin += num_elements(shape);
  }
}

Tensor HeadExchange::to_heads(const Context& ctx, const Tensor& x_THX,
                              std::vector<P2P>& batch) const {
  const Tensor rows = has_contiguous_rows(x_THX) ? x_THX : x_THX.contiguous();
  const Tensor x_SNX = ctx.empty({rows_->num_rows, mine().count, x_THX.dim(2)}, x_THX.dtype());
  for (int rank = 0; rank < group_.size(); ++rank) {
    const Tensor heads = heads_of(rows, ranges_[static_cast<size_t>(rank)]);
    for (const GroupRows::Run& run : own_runs())
      batch.push_back(P2P::send(rank, heads.slice(0, run.slot, run.length)));
    for (const GroupRows::Run& run : runs_of(rank))
      batch.push_back(P2P::receive(rank, x_SNX.slice(0, run.row, run.length)));
  }
  return x_SNX;
}

void HeadExchange::to_tokens(const Tensor& x_SNX, const Tensor& x_THX,
                             std::vector<P2P>& batch) const {
  LONGSHIP_CHECK(!is_shared_, "heads of several ranks would arrive in one place");
  for (int rank = 0; rank < group_.size(); ++rank) {
    send_tokens_of(rank, x_SNX, batch);
    const Tensor heads = heads_of(x_THX, ranges_[static_cast<size_t>(rank)]);
    for (const GroupRows::Run& run : own_runs())
      batch.push_back(P2P::receive(rank, heads.slice(0, run.slot, run.length)));
  }
}

Tensor HeadExchange::to_blocks(const Context& ctx, const Tensor& x_SNX,
                               std::vector<P2P>& batch) const {
  int64_t num_dealt = 0;
  for (const HeadRange& range : ranges_) num_dealt += range.count;
  const int64_t size = x_SNX.dim(2);
  const Tensor blocks = ctx.empty({num_local_tokens() * num_dealt * size}, x_SNX.dtype());
  for_each_block(blocks, size, [&](int rank, const Tensor& block) {
    send_tokens_of(rank, x_SNX, batch);
    for (const GroupRows::Run& run : own_runs())
      batch.push_back(P2P::receive(rank, block.slice(0, run.slot, run.length)));
  });
  return blocks;
}

void HeadExchange::add_blocks(const Context& ctx, const Tensor& blocks, const Tensor& x_THX) const {
  for_each_block(blocks, x_THX.dim(2), [&](int rank, const Tensor& block) {
    accumulate(ctx, heads_of(x_THX, ranges_[static_cast<size_t>(rank)]), block);
  });
}

Tensor HeadTransfer::to_heads(const Context& ctx, const HeadExchange& heads, const Tensor& x_THX) {
  return heads.to_heads(ctx, x_THX, batch_);
}

void HeadTransfer::to_tokens(const Context& ctx, const HeadExchange& heads, const Tensor& x_SNX,
                             const Tensor& x_THX) {
  if (heads.is_shared())
    sums_.push_back({heads, heads.to_blocks(ctx, x_SNX, batch_), x_THX});
  else
    heads.to_tokens(x_SNX, x_THX, batch_);
}

void HeadTransfer::depart(std::string_view label) {
  works_.push_back(group_.exchange(label, std::exchange(batch_, {})));
}

void HeadTransfer::wait() {
  for (Work& work : std::exchange(works_, {})) work.wait();
}

void HeadTransfer::arrive(const Context& ctx) {
  wait();
  for (const Sum& sum : std::exchange(sums_, {})) sum.heads.add_blocks(ctx, sum.blocks, sum.x_THX);
}

HeadRoute HeadRoute::of(const Group& group, const std::shared_ptr<const GroupRows>& rows,
                        const std::vector<HeadShare>& shares) {
  std::vector<HeadRange> query;
  for (const HeadShare& share : shares) query.push_back(share.query);
  return {.mine = shares[static_cast<size_t>(group.rank())],
          .query = HeadExchange(group, rows, std::move(query)),
          .kv = HeadExchange(group, rows, kv_ranges(shares))};
}

}  // namespace longship
