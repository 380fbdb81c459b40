#include "tests/support/whole_batch.h"

#include <numeric>

#include "tests/support/op_check.h"

namespace longship::testing {

std::vector<Segment> gathered_segments(const SequencePlan& plan) {
  std::vector<Segment> gathered;
  int64_t num_rows = 0;
  for (int rank = 0; rank < plan.num_ranks(); ++rank) {
    for (Segment segment : plan.segments(rank)) {
      segment.slot += num_rows;
      gathered.push_back(segment);
    }
    num_rows += plan.num_tokens(rank);
  }
  return joined(std::move(gathered));
}

Tensor unshard(const Context& ctx, const SequencePlan& plan, const Tensor& by_rank) {
  LONGSHIP_CHECK(by_rank.dim(0) == plan.num_tokens(), "{} rows for a batch of {} tokens",
                 by_rank.dim(0), plan.num_tokens());
  Tensor whole = ctx.empty(by_rank.shape(), by_rank.dtype());
  for (const Segment& segment : gathered_segments(plan))
    whole.slice(0, segment.global_begin, segment.length)
        .copy_from(by_rank.slice(0, segment.slot, segment.length));
  return whole;
}

Tensor gather(const Context& ctx, const Group& sp, const SequencePlan& plan, const Tensor& local) {
  Shape shape = local.shape();
  shape[0] = plan.num_tokens();
  const Tensor by_rank = ctx.empty(shape, local.dtype());
  sp.all_gather("test.gather", local.contiguous(), by_rank, plan.tokens_per_rank()).wait();
  return unshard(ctx, plan, by_rank);
}

std::vector<int64_t> changed_tokens(const Tensor& before, const Tensor& after) {
  std::vector<int64_t> tokens;
  for (int64_t t = 0; t < before.dim(0); ++t)
    if (!bitwise_equal(before.slice(0, t, 1), after.slice(0, t, 1))) tokens.push_back(t);
  return tokens;
}

std::vector<int64_t> token_range(int64_t first, int64_t end) {
  std::vector<int64_t> tokens(static_cast<size_t>(end - first));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

}  // namespace longship::testing
