#include "parallel/sequence_plan.h"

#include <algorithm>

namespace longship {
namespace {

// total * index / count rounded down, without overflow for any index <= count.
int64_t chunk_begin(int64_t total, int64_t index, int64_t count) {
  return total / count * index + total % count * index / count;
}

// Appends a segment, or lengthens the last one when the new one simply continues it.
void append(std::vector<Segment>& segments, const Segment& next) {
  if (!segments.empty()) {
    Segment& last = segments.back();
    if (last.document == next.document && last.global_begin + last.length == next.global_begin &&
        last.slot + last.length == next.slot) {
      last.length += next.length;
      return;
    }
  }
  segments.push_back(next);
}

// Appends the tokens [begin, end) of the batch, cut at document borders, from row `slot` on.
void append_chunk(std::vector<Segment>& segments, const std::vector<int64_t>& cu_seqlens,
                  int64_t begin, int64_t end, int64_t slot) {
  auto border = std::upper_bound(cu_seqlens.begin(), cu_seqlens.end(), begin);
  while (begin < end) {
    while (*border <= begin) ++border;  // passes over empty documents
    const int64_t document = border - cu_seqlens.begin() - 1;
    const int64_t length = std::min(end, *border) - begin;
    append(segments, {.document = document,
                      .position = begin - cu_seqlens[static_cast<size_t>(document)],
                      .global_begin = begin,
                      .length = length,
                      .slot = slot});
    begin += length;
    slot += length;
  }
}

void check_cu_seqlens(const std::vector<int64_t>& cu_seqlens) {
  const char* const next = "pass the running total of the document lengths, starting with 0";
  if (cu_seqlens.empty() || cu_seqlens[0] != 0)
    throw Error(ErrorCode::kConfig, {.what = "cu_seqlens of a packed batch",
                                     .expected = "0 as the first element",
                                     .found = cu_seqlens.empty() ? std::string("no element")
                                                                 : std::to_string(cu_seqlens[0]),
                                     .next = next});
  const auto fall = std::is_sorted_until(cu_seqlens.begin(), cu_seqlens.end());
  if (fall != cu_seqlens.end())
    throw Error(ErrorCode::kConfig, {.what = "cu_seqlens of a packed batch",
                                     .expected = "elements that never fall",
                                     .found = fmt::format("{} after {} at index {}", *fall,
                                                          *(fall - 1), fall - cu_seqlens.begin()),
                                     .next = next});
}

void check_group_size(const SequencePlan& plan, int ranks_per_group) {
  LONGSHIP_CHECK(ranks_per_group > 0 && plan.num_ranks() % ranks_per_group == 0,
                 "groups of {} ranks among {}", ranks_per_group, plan.num_ranks());
}

struct OfRank {
  int rank;  // counted from the first of its group
  Segment segment;
};

// The segments of a group in batch order.
std::vector<OfRank> in_batch_order(const SequencePlan& plan, int first_rank, int num_ranks) {
  std::vector<OfRank> all;
  for (int rank = 0; rank < num_ranks; ++rank)
    for (const Segment& segment : plan.segments(first_rank + rank)) all.push_back({rank, segment});
  std::ranges::sort(all, {}, [](const OfRank& of) { return of.segment.global_begin; });
  return all;
}

GroupRows find_rows(const SequencePlan& plan, int ranks_per_group) {
  GroupRows rows;
  rows.of_rank.resize(static_cast<size_t>(ranks_per_group));
  const int first = plan.rank() / ranks_per_group * ranks_per_group;
  for (const auto& [rank, segment] : in_batch_order(plan, first, ranks_per_group)) {
    std::vector<GroupRows::Run>& runs = rows.of_rank[static_cast<size_t>(rank)];
    const bool goes_on = !runs.empty() && runs.back().slot + runs.back().length == segment.slot &&
                         runs.back().row + runs.back().length == rows.num_rows;
    if (goes_on)
      runs.back().length += segment.length;
    else
      runs.push_back({segment.slot, rows.num_rows, segment.length});
    rows.num_rows += segment.length;
  }
  return rows;
}

}  // namespace

std::string_view layout_name(Layout layout) {
  return layout == Layout::kZigzag ? "zigzag" : "contiguous";
}

std::vector<Segment> joined(std::vector<Segment> segments) {
  std::ranges::sort(segments, {}, &Segment::global_begin);
  std::vector<Segment> joined;
  for (const Segment& segment : segments) append(joined, segment);
  return joined;
}

SequencePlan SequencePlan::make(std::vector<int64_t> cu_seqlens, Layout layout, int num_ranks,
                                int rank) {
  check_cu_seqlens(cu_seqlens);
  if (rank < 0 || rank >= num_ranks)
    throw Error(ErrorCode::kConfig, {.what = "rank of a sequence plan",
                                     .expected = "a rank in [0, number of ranks)",
                                     .found = fmt::format("rank {} of {}", rank, num_ranks)});
  const auto table = std::make_shared<Table>();
  table->layout = layout;
  table->rank = rank;
  table->cu_seqlens = std::move(cu_seqlens);
  table->segments.resize(static_cast<size_t>(num_ranks));
  table->num_tokens.resize(static_cast<size_t>(num_ranks));

  const int64_t total = table->cu_seqlens.back();
  const int64_t num_chunks = layout == Layout::kZigzag ? 2 * int64_t{num_ranks} : num_ranks;
  for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    // The second half of a zigzag goes back from the last rank to the first.
    const int64_t owner = chunk < num_ranks ? chunk : num_chunks - 1 - chunk;
    const int64_t begin = chunk_begin(total, chunk, num_chunks);
    const int64_t end = chunk_begin(total, chunk + 1, num_chunks);
    int64_t& slot = table->num_tokens[static_cast<size_t>(owner)];
    append_chunk(table->segments[static_cast<size_t>(owner)], table->cu_seqlens, begin, end, slot);
    slot += end - begin;
  }
  SequencePlan plan;
  plan.table_ = table;
  return plan;
}

SequencePlan SequencePlan::coarsened(int ranks_per_group) const {
  check_group_size(*this, ranks_per_group);
  return *memo().get<SequencePlan>(ranks_per_group, [&] { return coarsen(ranks_per_group); });
}

std::shared_ptr<const GroupRows> SequencePlan::rows_in_group(int ranks_per_group) const {
  check_group_size(*this, ranks_per_group);
  return memo().get<GroupRows>(ranks_per_group, [&] { return find_rows(*this, ranks_per_group); });
}

SequencePlan SequencePlan::coarsen(int ranks_per_group) const {
  const auto table = std::make_shared<Table>();
  table->layout = layout();
  table->rank = rank() / ranks_per_group;
  table->cu_seqlens = cu_seqlens();
  for (int first = 0; first < num_ranks(); first += ranks_per_group) {
    std::vector<Segment>& joined = table->segments.emplace_back();
    int64_t& num_rows = table->num_tokens.emplace_back(0);
    for (auto [rank, segment] : in_batch_order(*this, first, ranks_per_group)) {
      segment.slot = num_rows;
      append(joined, segment);
      num_rows += segment.length;
    }
  }
  SequencePlan plan;
  plan.table_ = table;
  return plan;
}

Tensor SequencePlan::positions(const Context& ctx) const {
  const auto memory =
      ctx.memory->device().kind == DeviceKind::kCpu ? ctx.memory : std::make_shared<Memory>();
  Tensor positions_T = Tensor::empty(memory, {num_local_tokens()}, DType::kI64);
  int64_t* positions = positions_T.data<int64_t>();
  for (const Segment& segment : local_segments())
    for (int64_t i = 0; i < segment.length; ++i) positions[segment.slot + i] = segment.position + i;
  return positions_T;
}

Tensor SequencePlan::shard(const Context& ctx, const Tensor& whole) const {
  LONGSHIP_CHECK(whole.dim(0) == num_tokens(), "{} rows for a batch of {} tokens", whole.dim(0),
                 num_tokens());
  Shape shape = whole.shape();
  shape[0] = num_local_tokens();
  Tensor local = ctx.empty(std::move(shape), whole.dtype());
  for (const Segment& segment : local_segments())
    local.slice(0, segment.slot, segment.length)
        .copy_from(whole.slice(0, segment.global_begin, segment.length));
  return local;
}

}  // namespace longship
