// V vocabulary, T tokens, E features.
#include "runtime/ops/embedding.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "runtime/parallel_for.h"

namespace longship {
namespace {

// The tokens of one id, as a range of `tokens`.
struct Bucket {
  int64_t id;
  int64_t begin;
  int64_t end;
};

struct TokensById {
  std::vector<int64_t> tokens;  // sorted by (id, token)
  std::vector<Bucket> buckets;  // ids that occur, ascending
};

TokensById sort_tokens(const int32_t* ids, int64_t T, int64_t V) {
  std::vector<int64_t> next(static_cast<size_t>(V) + 1, 0);
  for (int64_t t = 0; t < T; ++t) ++next[static_cast<size_t>(ids[t]) + 1];
  TokensById sorted;
  for (int64_t id = 0; id < V; ++id) {
    const int64_t begin = next[static_cast<size_t>(id)];
    const int64_t end = next[static_cast<size_t>(id) + 1] += begin;
    if (end > begin) sorted.buckets.push_back({id, begin, end});
  }
  sorted.tokens.resize(static_cast<size_t>(T));
  for (int64_t t = 0; t < T; ++t)
    sorted.tokens[static_cast<size_t>(next[static_cast<size_t>(ids[t])]++)] = t;
  return sorted;
}

// Work is split over ids and over columns, because a few ids own most tokens of a text.
constexpr int64_t kColumns = 256;
// A frequent id sums groups of tokens first, which keeps fp32 rounding small.
constexpr int64_t kGroupTokens = 128;

// table gradient [V, E] += dy of one bucket, columns [column, column + width).
template <class T, class A>
void add_bucket(const TokensById& sorted, const Bucket& bucket, const T* dy, int64_t E,
                int64_t column, int64_t width, A* dtable) {
  A* row = dtable + bucket.id * E + column;
  std::array<A, kColumns> group;
  A* sum = group.data();
  for (int64_t first = bucket.begin; first < bucket.end; first += kGroupTokens) {
    std::fill(group.begin(), group.end(), A{0});
    for (int64_t n = first; n < std::min(first + kGroupTokens, bucket.end); ++n) {
      const T* from = dy + sorted.tokens[static_cast<size_t>(n)] * E + column;
#pragma omp simd
      for (int64_t e = 0; e < width; ++e) sum[e] += static_cast<A>(from[e]);
    }
    for (int64_t e = 0; e < width; ++e) row[e] += sum[e];
  }
}

struct EmbeddingNode final : Node {
  struct Saved {
    Tensor ids_T;
  } saved;

  const char* name() const override { return "embedding"; }

  void backward(Context& ctx) override {
    const Tensor dy_TE = grad_output(ctx).contiguous();
    const int64_t V = input(0)->shape()[0];
    const int64_t E = dy_TE.dim(1);
    const TokensById sorted = sort_tokens(saved.ids_T.data<int32_t>(), dy_TE.dim(0), V);
    const int64_t num_parts = (E + kColumns - 1) / kColumns;
    const Tensor dtable_VE = input(0)->accumulate_into(ctx);
    dispatch_floating(dy_TE.dtype(), [&](auto tag) {
      using T = decltype(tag);
      using A = Accumulator<T>;
      const T* dy = dy_TE.data<T>();
      A* dtable = dtable_VE.data<A>();
      const int64_t num_items = static_cast<int64_t>(sorted.buckets.size()) * num_parts;
      parallel_for_dynamic(ctx, num_items, [&](int64_t item) {
        const int64_t column = item % num_parts * kColumns;
        add_bucket(sorted, sorted.buckets[static_cast<size_t>(item / num_parts)], dy, E, column,
                   std::min(kColumns, E - column), dtable);
      });
    });
  }

  void visit_saved(const SavedVisitor& visit) override { visit("ids_T", saved.ids_T); }
};

void check_ids(const Context& ctx, const Tensor& ids_T, int64_t V) {
  const int32_t* ids = ids_T.data<int32_t>();
  for (int64_t t = 0; t < ids_T.numel(); ++t) {
    if (ids[t] >= 0 && ids[t] < V) continue;
    throw Error(
        ErrorCode::kCorrupt,
        {.what = fmt::format("{}{}token id out of range", ctx.scope, ctx.scope.empty() ? "" : ": "),
         .expected = fmt::format("ids in [0, {}), the rows of the embedding table", V),
         .found = fmt::format("id {} at token {} of the {} on this rank", ids[t], t, ids_T.numel()),
         .next = "use the token file that was prepared with this model's tokenizer, or "
                 "check it for damage"});
  }
}

}  // namespace

Variable embedding(Context& ctx, const Variable& table_VE, const Tensor& ids_T) {
  LONGSHIP_CHECK(table_VE.value().rank() == 2 && ids_T.rank() == 1, "embedding of {} with ids {}",
                 shape_string(table_VE.shape()), shape_string(ids_T.shape()));
  const int64_t V = table_VE.dim(0);
  const int64_t E = table_VE.dim(1);
  const Tensor ids = ids_T.contiguous();
  check_ids(ctx, ids, V);
  const Tensor table = table_VE.value().contiguous();
  const int64_t T = ids.numel();
  const Tensor y_TE = ctx.empty({T, E}, table.dtype());
  const int64_t row_bytes = E * dtype_size(table.dtype());
  const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, row_bytes));
  parallel_for(ctx, T, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      std::memcpy(y_TE.raw() + t * row_bytes, table.raw() + ids.data<int32_t>()[t] * row_bytes,
                  static_cast<size_t>(row_bytes));
  });
  std::unique_ptr<EmbeddingNode> node;
  if (is_recording(ctx, {&table_VE})) {
    node = std::make_unique<EmbeddingNode>();
    node->saved = {ids};
  }
  return record(ctx, "embedding", y_TE, std::move(node), {&table_VE});
}

}  // namespace longship
