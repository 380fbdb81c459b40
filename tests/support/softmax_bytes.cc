#include "tests/support/softmax_bytes.h"

#include <algorithm>
#include <limits>

namespace longship::testing {
namespace {

// The smallest range that covers some rows.
struct Cover {
  int64_t first = std::numeric_limits<int64_t>::max(), last = -1;

  void add(int64_t row) {
    first = std::min(first, row);
    last = std::max(last, row);
  }
  int64_t length() const { return last < 0 ? 0 : last - first + 1; }
};

// Rows of one rank's queries and of another's keys that meet, from the definition of the mask.
struct Meeting {
  Cover queries;
  std::set<int64_t> keys;
};

Meeting meeting_of(const SequencePlan& plan, int query_rank, int key_rank) {
  Meeting meeting;
  for (const Segment& q : plan.segments(query_rank))
    for (const Segment& k : plan.segments(key_rank))
      for (int64_t i = 0; i < q.length && q.document == k.document; ++i)
        for (int64_t j = 0; j < k.length && k.position + j <= q.position + i; ++j) {
          meeting.queries.add(q.slot + i);
          meeting.keys.insert(k.slot + j);
        }
  return meeting;
}

// The heads of a rank when `num_places` ranks share them.
struct DealtHeads {
  std::vector<int64_t> query;         // how many, by place
  std::vector<std::set<int64_t>> kv;  // which, by place
  bool shared = false;                // some KV head is at several places
};

DealtHeads dealt_heads(const AttentionBatch& batch, int64_t num_places) {
  const int64_t H = batch.q_THD.dim(1), K = batch.k_TKD.dim(1);
  DealtHeads dealt;
  std::vector<int> uses(static_cast<size_t>(K));
  for (int64_t p = 0; p < num_places; ++p) {
    dealt.query.push_back(H * (p + 1) / num_places - H * p / num_places);
    std::set<int64_t>& kv = dealt.kv.emplace_back();
    for (int64_t h = H * p / num_places; h < H * (p + 1) / num_places; ++h) kv.insert(h * K / H);
    for (int64_t head : kv) ++uses[static_cast<size_t>(head)];
  }
  dealt.shared = *std::max_element(uses.begin(), uses.end()) > 1;
  return dealt;
}

// Heads are dealt to groups of `group_size` ranks.
SoftmaxBytes all_to_all_bytes(const SequencePlan& plan, const AttentionBatch& batch,
                              int group_size) {
  const int64_t D = batch.q_THD.dim(2), V = batch.v_TKV.dim(2);
  const int64_t e = dtype_size(batch.q_THD.dtype());
  const DealtHeads dealt = dealt_heads(batch, group_size);
  const int64_t g = dealt.shared ? dtype_size(accumulator_dtype(batch.q_THD.dtype())) : e;
  const int r = plan.rank(), first = r / group_size * group_size;
  auto num_query = [&](int p) { return dealt.query[static_cast<size_t>(p - first)]; };
  auto num_kv = [&](int p) { return std::ssize(dealt.kv[static_cast<size_t>(p - first)]); };
  SoftmaxBytes bytes;
  for (int p = first; p < first + group_size; ++p) {
    if (p == r) continue;
    bytes.forward += plan.num_tokens(r) * (num_query(p) * D + num_kv(p) * (D + V)) * e;
    bytes.forward += plan.num_tokens(p) * num_query(r) * V * e;
    bytes.backward += plan.num_tokens(r) * num_query(p) * V * e;
    bytes.backward += plan.num_tokens(p) * (num_query(r) * D * e + num_kv(r) * (D + V) * g);
  }
  return bytes;
}

// Keys and values travel between groups of `group_size` ranks, which share the heads.
SoftmaxBytes group_ring_bytes(const SequencePlan& plan, const AttentionBatch& batch,
                              int group_size) {
  const DealtHeads dealt = dealt_heads(batch, group_size);
  const int64_t width = std::ssize(dealt.kv[static_cast<size_t>(plan.rank() % group_size)]) *
                        (batch.k_TKD.dim(2) + batch.v_TKV.dim(2));
  const int64_t e = dtype_size(batch.q_THD.dtype());
  const int64_t g = dtype_size(accumulator_dtype(batch.q_THD.dtype()));
  const int num_groups = plan.num_ranks() / group_size;
  int steps = 0;
  for (int q = 0; q < plan.num_ranks(); ++q)
    for (int k = 0; k < plan.num_ranks(); ++k)
      if (!meeting_of(plan, q, k).keys.empty())
        steps = std::max(steps, (q / group_size - k / group_size + num_groups) % num_groups);
  auto tokens_at = [&](int step) {
    const int group = (plan.rank() / group_size - step + num_groups) % num_groups;
    int64_t tokens = 0;
    for (int place = 0; place < group_size; ++place)
      tokens += plan.num_tokens(group * group_size + place);
    return tokens;
  };
  SoftmaxBytes bytes;
  for (int step = 0; step < steps; ++step) {
    bytes.forward += tokens_at(step) * width * e;
    bytes.backward += tokens_at(step) * width * (e + g);
  }
  if (steps > 0) bytes.backward += tokens_at(steps) * width * g;
  return bytes;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const SoftmaxBytes& bytes) {
  return out << bytes.forward << " bytes forward, " << bytes.backward << " backward";
}

int64_t num_keys_seen(const SequencePlan& plan, int query_rank, int key_rank) {
  return std::ssize(meeting_of(plan, query_rank, key_rank).keys);
}

SoftmaxBytes ulysses_bytes(const SequencePlan& plan, const AttentionBatch& batch) {
  return all_to_all_bytes(plan, batch, plan.num_ranks());
}

SoftmaxBytes ring_bytes(const SequencePlan& plan, const AttentionBatch& batch) {
  return group_ring_bytes(plan, batch, 1);
}

SoftmaxBytes usp_bytes(const SequencePlan& plan, const AttentionBatch& batch, int ulysses_degree) {
  const SoftmaxBytes all_to_all = all_to_all_bytes(plan, batch, ulysses_degree);
  const SoftmaxBytes ring = group_ring_bytes(plan, batch, ulysses_degree);
  return {all_to_all.forward + ring.forward, all_to_all.backward + ring.backward};
}

SoftmaxBytes token_ring_bytes(const SequencePlan& plan, const AttentionBatch& batch) {
  const int64_t H = batch.q_THD.dim(1), D = batch.q_THD.dim(2), V = batch.v_TKV.dim(2);
  const int64_t e = dtype_size(batch.q_THD.dtype());
  const int64_t g = dtype_size(accumulator_dtype(batch.q_THD.dtype()));
  const int P = plan.num_ranks();
  // Rows of an owner's queries that see keys `step` ranks before it, or further.
  auto travelling = [&](int owner, int step) {
    Cover rows;
    for (int later = step; later < P; ++later) {
      const Cover seeing = meeting_of(plan, owner, (owner - later + P) % P).queries;
      if (seeing.length() == 0) continue;
      rows.add(seeing.first);
      rows.add(seeing.last);
    }
    return rows.length();
  };
  SoftmaxBytes bytes;
  for (int step = 1; step < P; ++step) {
    const int64_t passed_on = travelling((plan.rank() + step - 1) % P, step) * H;
    const int owner = (plan.rank() + step) % P;
    const int64_t returned = meeting_of(plan, owner, plan.rank()).queries.length() * H;
    bytes.forward += passed_on * D * e + returned * (V + 1) * g;
    bytes.backward += passed_on * ((D + V) * e + 2 * g) + returned * D * g;
  }
  return bytes;
}

SoftmaxBytes gather_kv_bytes(const SequencePlan& plan, const AttentionBatch& batch) {
  const int64_t width = batch.k_TKD.dim(1) * (batch.k_TKD.dim(2) + batch.v_TKV.dim(2));
  const int64_t e = dtype_size(batch.q_THD.dtype());
  const int64_t g = dtype_size(accumulator_dtype(batch.q_THD.dtype()));
  const int r = plan.rank();
  SoftmaxBytes bytes;
  for (int p = 0; p < plan.num_ranks(); ++p) {
    if (p == r) continue;
    bytes.forward += num_keys_seen(plan, p, r) * width * e;
    bytes.backward += num_keys_seen(plan, r, p) * width * g;
  }
  bytes.backward += bytes.forward;
  return bytes;
}

}  // namespace longship::testing
