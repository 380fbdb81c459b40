// V vocabulary, T tokens, E features.
#include "runtime/ops/embedding.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "runtime/device_dispatch.h"
#include "runtime/gpu.h"
#include "runtime/ops/embedding_cuda.h"
#include "runtime/parallel_for.h"
#include "runtime/side_work.h"

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

// table gradient [V, E] += dy of one bucket, kColumns columns from `column` on, or what is left.
template <class T, class A>
void add_bucket(const TokensById& sorted, const Bucket& bucket, const T* dy, int64_t E,
                int64_t column, A* dtable) {
  const int64_t width = std::min(kColumns, E - column);
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

void add_rows_cpu(const Context& ctx, const Tensor& ids_T, const Tensor& dy_TE,
                  const Tensor& dtable_VE) {
  const int64_t E = dy_TE.dim(1);
  const TokensById sorted = sort_tokens(ids_T.data<int32_t>(), dy_TE.dim(0), dtable_VE.dim(0));
  const int64_t num_parts = (E + kColumns - 1) / kColumns;
  dispatch_floating(dy_TE.dtype(), [&](auto tag) {
    using T = decltype(tag);
    using A = Accumulator<T>;
    const T* dy = dy_TE.data<T>();
    A* dtable = dtable_VE.data<A>();
    const int64_t num_items = static_cast<int64_t>(sorted.buckets.size()) * num_parts;
    parallel_for_dynamic(ctx, num_items, [&](int64_t item) {
      const int64_t column = item % num_parts * kColumns;
      add_bucket(sorted, sorted.buckets[static_cast<size_t>(item / num_parts)], dy, E, column,
                 dtable);
    });
  });
}

// What the backward on a GPU knows from the ids alone. To find it takes many short kernels: they
// run beside the forward.
class PlannedBackward {
 public:
  PlannedBackward(const Context& ctx, const Tensor& ids_T, int64_t V, int64_t E)
      : ids_T_(ids_T),
        sorted_22T_(ctx.empty({2, 2, ids_T.dim(0)}, DType::kI32)),
        sort_scratch_(ctx.empty({embedding_sort_bytes(ids_T.dim(0))}, DType::kU8)),
        chunks_C4_(ctx.empty({embedding_num_chunks(ids_T.dim(0)), 4}, DType::kI32)),
        num_done_BC_(ctx.empty({embedding_num_column_blocks(E), chunks_C4_.dim(0)}, DType::kI32)) {
    const int64_t T = ids_T.dim(0);
    LONGSHIP_CHECK(T <= int64_t{1} << 30, "embedding of {} tokens on one GPU", T);
    if (!ids_T.has_elements()) return;
    planning_.emplace(ctx, [&](StreamHandle stream) {
      half_ = plan_embedding_backward_cuda({.num_ids = V,
                                            .num_tokens = T,
                                            .num_features = E,
                                            .ids_T = ids_T_.device_data<int32_t>(),
                                            .sorted_22T = sorted_22T_.device_data<int32_t>(),
                                            .sort_scratch = sort_scratch_.address(),
                                            .chunks_C = chunks(),
                                            .num_done_BC = num_done_BC_.device_data<int32_t>()},
                                           stream);
    });
  }

  void run(const Context& ctx, const Tensor& dy_TE, const Tensor& dtable_VE) {
    const int64_t T = dy_TE.dim(0), E = dy_TE.dim(1);
    const Tensor partials_2CE = ctx.empty({2, chunks_C4_.dim(0), E}, DType::kF32);
    if (!dy_TE.has_elements()) return;
    planning_->join();
    const int32_t* const sorted = sorted_22T_.device_data<int32_t>();
    embedding_backward_cuda({.dtype = dy_TE.dtype(),
                             .num_tokens = T,
                             .num_features = E,
                             .ids_T = sorted + half_ * T,
                             .tokens_T = sorted + (2 + half_) * T,
                             .chunks_C = chunks(),
                             .num_done_BC = num_done_BC_.device_data<int32_t>(),
                             .dy_TE = dy_TE.address(),
                             .dtable_VE = dtable_VE.device_data<float>(),
                             .partials_2CE = partials_2CE.device_data<float>()},
                            compute_stream(ctx));
  }

  void visit_saved(const Node::SavedVisitor& visit) {
    visit("ids_T", ids_T_);
    visit("sorted_22T", sorted_22T_);
    visit("sort_scratch", sort_scratch_);
    visit("chunks_C4", chunks_C4_);
    visit("num_done_BC", num_done_BC_);
  }

 private:
  EmbeddingChunk* chunks() const { return reinterpret_cast<EmbeddingChunk*>(chunks_C4_.address()); }

  Tensor ids_T_, sorted_22T_, sort_scratch_, chunks_C4_, num_done_BC_;
  int half_ = 0;
  std::optional<SideWork> planning_;  // ends before the tensors do; none without elements
};

struct EmbeddingNode final : Node {
  struct Saved {
    Tensor ids_T;                            // on the CPU
    std::optional<PlannedBackward> planned;  // on a GPU
  } saved;

  const char* name() const override { return "embedding"; }

  void backward(Context& ctx) override {
    const Tensor dy_TE = grad_output(ctx).contiguous();
    const Tensor dtable_VE = input(0)->accumulate_into(ctx);
    if (saved.planned) {
      saved.planned->run(ctx, dy_TE, dtable_VE);
    } else {
      add_rows_cpu(ctx, saved.ids_T, dy_TE, dtable_VE);
    }
  }

  void visit_saved(const SavedVisitor& visit) override {
    if (saved.planned) {
      saved.planned->visit_saved(visit);
    } else {
      visit("ids_T", saved.ids_T);
    }
  }
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

void forward_cpu(const Context& ctx, const Tensor& table_VE, const Tensor& ids_T,
                 const Tensor& y_TE) {
  check_ids(ctx, ids_T, table_VE.dim(0));
  const int32_t* ids = ids_T.data<int32_t>();
  const int64_t row_bytes = y_TE.dim(1) * dtype_size(y_TE.dtype());
  const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, row_bytes));
  parallel_for(ctx, y_TE.dim(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      std::memcpy(y_TE.raw() + t * row_bytes, table_VE.raw() + ids[t] * row_bytes,
                  static_cast<size_t>(row_bytes));
  });
}

void forward_cuda(const Context& ctx, const Tensor& table_VE, const Tensor& ids_T,
                  const Tensor& y_TE) {
  embedding_forward_cuda({.dtype = y_TE.dtype(),
                          .num_ids = table_VE.dim(0),
                          .num_tokens = y_TE.dim(0),
                          .num_features = y_TE.dim(1),
                          .ids_T = ids_T.device_data<int32_t>(),
                          .table_VE = table_VE.address(),
                          .y_TE = y_TE.address()},
                         compute_stream(ctx));
}

}  // namespace

Variable embedding(Context& ctx, const Variable& table_VE, const Tensor& ids_T) {
  LONGSHIP_CHECK(table_VE.value().rank() == 2 && ids_T.rank() == 1, "embedding of {} with ids {}",
                 shape_string(table_VE.shape()), shape_string(ids_T.shape()));
  const Tensor ids = ids_T.contiguous();
  const Tensor table = table_VE.value().contiguous();
  const Tensor y_TE = ctx.empty({ids.numel(), table.dim(1)}, table.dtype());
  require_one_device("embedding", {&table, &ids, &y_TE});
  dispatch_device(
      y_TE, [&] { forward_cpu(ctx, table, ids, y_TE); },
      [&] { forward_cuda(ctx, table, ids, y_TE); });
  std::unique_ptr<EmbeddingNode> node;
  if (is_recording(ctx, {&table_VE})) {
    node = std::make_unique<EmbeddingNode>();
    if (ids.device().kind == DeviceKind::kCpu) {
      node->saved.ids_T = ids;
    } else {
      node->saved.planned.emplace(ctx, ids, table.dim(0), table.dim(1));
    }
  }
  return record(ctx, "embedding", y_TE, std::move(node), {&table_VE});
}

}  // namespace longship
