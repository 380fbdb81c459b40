#include "parallel/head_exchange.h"

#include <numeric>

#include "parallel/softmax_block.h"
#include "runtime/ops/accumulate.h"

namespace longship {
namespace {

// [T, heads of the range * X], a view.
Tensor columns(const Tensor& x_THX, HeadRange range) {
  const int64_t size = x_THX.dim(2);
  return x_THX.reshape({x_THX.dim(0), x_THX.dim(1) * size})
      .slice(1, range.begin * size, range.count * size);
}

// Calls f(heads of rank p, its block [T, heads * X]) for the blocks of all ranks in a flat tensor.
template <class F>
void for_each_block(const std::vector<HeadRange>& ranges, const Tensor& blocks, int64_t num_tokens,
                    int64_t size, F&& f) {
  int64_t begin = 0;
  for (const HeadRange& range : ranges) {
    const int64_t length = num_tokens * range.count * size;
    if (length > 0)
      f(range, blocks.slice(0, begin, length).reshape({num_tokens, range.count * size}));
    begin += length;
  }
}

// Whether several ranks use one KV head; ranges ascend.
bool shares_kv_heads(const std::vector<HeadShare>& shares) {
  int64_t next = 0;
  for (const HeadShare& share : shares) {
    if (share.kv.count == 0) continue;
    if (share.kv.begin < next) return true;
    next = share.kv.end();
  }
  return false;
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

std::vector<std::vector<HeadShare>> in_groups(const std::vector<HeadShare>& shares,
                                              int64_t max_groups) {
  int64_t num_groups = shares_kv_heads(shares) ? 1 : max_groups;
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

Tensor Transfer::arrive() {
  work_.wait();
  work_ = {};
  return std::move(received_);
}

HeadExchange::HeadExchange(Group group, std::vector<int64_t> tokens_per_rank,
                           std::vector<HeadRange> ranges)
    : group_(std::move(group)),
      tokens_per_rank_(std::move(tokens_per_rank)),
      ranges_(std::move(ranges)) {
  LONGSHIP_CHECK(
      std::ssize(tokens_per_rank_) == group_.size() && std::ssize(ranges_) == group_.size(),
      "tokens of {} ranks and heads of {} in a group of {}", tokens_per_rank_.size(),
      ranges_.size(), group_.size());
}

Transfer HeadExchange::to_heads(const Context& ctx, std::string_view label,
                                const Tensor& x_THX) const {
  const int64_t num_tokens = num_local_tokens(), size = x_THX.dim(2);
  const Tensor packed = ctx.empty({num_tokens * num_dealt() * size}, x_THX.dtype());
  for_each_block(ranges_, packed, num_tokens, size, [&](HeadRange range, const Tensor& block) {
    block.copy_from(columns(x_THX, range));
  });
  const int64_t group_tokens =
      std::accumulate(tokens_per_rank_.begin(), tokens_per_rank_.end(), int64_t{0});
  const Tensor x_SNX = ctx.empty({group_tokens, mine().count, size}, x_THX.dtype());
  return {x_SNX, group_.all_to_all(label, packed, elements_by_head(num_tokens * size),
                                   x_SNX.reshape({-1}), elements_by_token(size))};
}

Transfer HeadExchange::to_tokens(const Context& ctx, std::string_view label,
                                 const Tensor& x_SNX) const {
  const int64_t num_tokens = num_local_tokens(), size = x_SNX.dim(2);
  const Tensor blocks = ctx.empty({num_tokens * num_dealt() * size}, x_SNX.dtype());
  return {blocks, group_.all_to_all(label, x_SNX.reshape({-1}), elements_by_token(size), blocks,
                                    elements_by_head(num_tokens * size))};
}

void HeadExchange::place(const Tensor& blocks, const Tensor& x_THX) const {
  for_each_block(
      ranges_, blocks, num_local_tokens(), x_THX.dim(2),
      [&](HeadRange range, const Tensor& block) { columns(x_THX, range).copy_from(block); });
}

void HeadExchange::add(const Context& ctx, const Tensor& blocks, const Tensor& x_THX) const {
  for_each_block(
      ranges_, blocks, num_local_tokens(), x_THX.dim(2),
      [&](HeadRange range, const Tensor& block) { accumulate(ctx, columns(x_THX, range), block); });
}

Tensor HeadExchange::collect(const Context& ctx, const Tensor& blocks, int64_t num_heads,
                             int64_t size) const {
  const Tensor x_THX = ctx.empty({num_local_tokens(), num_heads, size}, blocks.dtype());
  place(blocks, x_THX);
  return x_THX;
}

int64_t HeadExchange::num_dealt() const {
  return std::accumulate(ranges_.begin(), ranges_.end(), int64_t{0},
                         [](int64_t sum, const HeadRange& range) { return sum + range.count; });
}

std::vector<int64_t> HeadExchange::elements_by_head(int64_t elements_per_head) const {
  std::vector<int64_t> counts;
  for (const HeadRange& range : ranges_) counts.push_back(range.count * elements_per_head);
  return counts;
}

std::vector<int64_t> HeadExchange::elements_by_token(int64_t size) const {
  std::vector<int64_t> counts = tokens_per_rank_;
  for (int64_t& count : counts) count *= mine().count * size;
  return counts;
}

HeadRoute HeadRoute::of(const Group& group, const std::vector<int64_t>& tokens_per_rank,
                        const std::vector<HeadShare>& shares) {
  std::vector<HeadRange> query, kv;
  for (const HeadShare& share : shares) {
    query.push_back(share.query);
    kv.push_back(share.kv);
  }
  return {.mine = shares[static_cast<size_t>(group.rank())],
          .shares_kv = shares_kv_heads(shares),
          .query = HeadExchange(group, tokens_per_rank, std::move(query)),
          .kv = HeadExchange(group, tokens_per_rank, std::move(kv))};
}

Tensor HeadRoute::join_kv(const Context& ctx, const Tensor& blocks, int64_t num_kv_heads,
                          int64_t size) const {
  if (!shares_kv) return kv.collect(ctx, blocks, num_kv_heads, size);
  const Tensor x_TKX = ctx.zeros({kv.num_local_tokens(), num_kv_heads, size}, blocks.dtype());
  kv.add(ctx, blocks, x_TKX);
  return x_TKX;
}

}  // namespace longship
