#include "attention/cuda/cudnn_attention.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "attention/call_launch.h"
#include "attention/cuda/cudnn_graph.h"
#include "attention/cuda/recent_map.h"
#include "attention/gpu_attention_limits.h"
#include "runtime/gpu.h"
#include "runtime/long_lived.h"

namespace longship {
namespace {

constexpr int64_t kTileRows = 128;
constexpr size_t kKeptGraphs = 256;
constexpr size_t kKeptTables = 64;

int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// The next power of two from kTileRows on. Longer limits than needed cost no time.
int64_t length_bucket(int64_t n) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max(n, kTileRows))));
}

// At most a quarter more: the workspace grows with it.
int64_t total_bucket(int64_t n) {
  return round_up(n, std::max(kTileRows, length_bucket(n) / 8));
}

// Rows that the entries of a launch lie in; its graph gets pointers to the first ones.
struct Span {
  int64_t q_begin = std::numeric_limits<int64_t>::max(), q_end = 0;
  int64_t k_begin = std::numeric_limits<int64_t>::max(), k_end = 0;
  int64_t max_q = 0, max_k = 0;

  explicit Span(const std::vector<CallEntry>& entries) {
    for (const CallEntry& entry : entries) {
      q_begin = std::min(q_begin, entry.q_begin);
      q_end = std::max(q_end, entry.q_end());
      k_begin = std::min(k_begin, entry.k_begin);
      k_end = std::max(k_end, entry.k_end());
      max_q = std::max(max_q, entry.q_length);
      max_k = std::max(max_k, entry.k_length);
    }
  }
  int64_t num_q() const { return q_end - q_begin; }
  int64_t num_k() const { return k_end - k_begin; }
};

// Where the entries of a launch lie, as cuDNN reads it. Entries of no rows fill the batch up.
struct RaggedTables {
  Tensor offsets;  // i64 [5, batch + 1]: of q, k, v, o and lse
  Tensor lengths;  // i32 [2, batch]: of queries and keys

  RaggedTables(const Context& ctx, const std::vector<CallEntry>& entries, const Span& span,
               const AttentionSizes& sizes, int64_t batch) {
    const int64_t query_heads = sizes.num_heads, kv_heads = sizes.num_kv_heads;
    const int64_t q_elements[] = {query_heads * sizes.head_size, query_heads * sizes.value_size,
                                  query_heads};
    const int64_t k_elements[] = {kv_heads * sizes.head_size, kv_heads * sizes.value_size};
    const auto host = std::make_shared<Memory>();
    const Tensor host_offsets = Tensor::empty(host, {5, batch + 1}, DType::kI64);
    const Tensor host_lengths = Tensor::zeros(host, {2, batch}, DType::kI32);
    auto* const offset = host_offsets.data<int64_t>();
    auto* const length = host_lengths.data<int32_t>();
    for (int64_t i = 0; i <= batch; ++i) {
      const bool is_entry = i < static_cast<int64_t>(entries.size());
      const CallEntry entry = is_entry ? entries[static_cast<size_t>(i)]
                                       : CallEntry{.q_begin = span.q_end, .k_begin = span.k_end};
      const int64_t q = entry.q_begin - span.q_begin, k = entry.k_begin - span.k_begin;
      const int64_t of_entry[] = {q * q_elements[0], k * k_elements[0], k * k_elements[1],
                                  q * q_elements[1], q * q_elements[2]};
      for (int64_t table = 0; table < 5; ++table) offset[table * (batch + 1) + i] = of_entry[table];
      if (!is_entry) continue;
      length[i] = static_cast<int32_t>(entry.q_length);
      length[batch + i] = static_cast<int32_t>(entry.k_length);
    }
    offsets = upload(ctx, host_offsets);
    lengths = upload(ctx, host_lengths);
  }

  CudnnRagged pointers() const {
    const int64_t* offset = offsets.device_data<int64_t>();
    const int32_t* length = lengths.device_data<int32_t>();
    const int64_t row = offsets.dim(1);
    return {.q_offsets = offset,
            .k_offsets = offset + row,
            .v_offsets = offset + 2 * row,
            .o_offsets = offset + 3 * row,
            .lse_offsets = offset + 4 * row,
            .q_lengths = length,
            .k_lengths = length + lengths.dim(1)};
  }
};

// What a GPU keeps between calls.
struct CudnnState {
  explicit CudnnState(StreamHandle stream) : handle(stream) {}

  CudnnHandle handle;
  RecentMap<CudnnGraphKey, std::shared_ptr<const CudnnGraph>> graphs{kKeptGraphs};
  RecentMap<std::vector<int64_t>, std::shared_ptr<const RaggedTables>> tables{kKeptTables};
};

CudnnState& state_of(const Context& ctx) {
  const StreamHandle stream = compute_stream(ctx);
  return ctx.gpu->libraries->get<CudnnState>([&] { return std::make_unique<CudnnState>(stream); });
}

std::vector<int64_t> table_key(const std::vector<CallEntry>& entries, const AttentionSizes& sizes,
                               int64_t batch) {
  std::vector<int64_t> key = {batch, sizes.num_heads, sizes.num_kv_heads, sizes.head_size,
                              sizes.value_size};
  for (const CallEntry& entry : entries)
    key.insert(key.end(), {entry.q_begin, entry.q_length, entry.k_begin, entry.k_length});
  return key;
}

CudnnGraphKey graph_key(const CallLaunch& launch, const Span& span, const AttentionSizes& sizes,
                        double scale) {
  CudnnGraphKey key;
  key.num_heads = key.row_heads = sizes.num_heads;
  key.num_kv_heads = key.row_kv_heads = sizes.num_kv_heads;
  key.head_size = sizes.head_size;
  key.value_size = sizes.value_size;
  key.bottom_right = launch.band.bottom_right;
  key.left = launch.band.left.value_or(CudnnGraphKey::kNoBound);
  key.right = launch.band.right.value_or(CudnnGraphKey::kNoBound);
  key.scale = static_cast<float>(scale);
  key.ragged = !launch.dense;
  if (key.ragged) {
    key.batch = static_cast<int64_t>(std::bit_ceil(launch.entries.size()));
    key.max_q = length_bucket(span.max_q);
    key.max_k = length_bucket(span.max_k);
  } else {
    key.max_q = span.max_q;
    key.max_k = span.max_k;
  }
  return key;
}

// What cudnn-frontend asks for: sums of dq, gradients of k and v for every query head, and delta,
// or all scores. For memory that is only planned.
int64_t planned_workspace(const CudnnGraphKey& key) {
  if (!key.backward) return 0;
  const int64_t num_q = key.ragged ? key.total_q : key.max_q;
  const int64_t num_k = key.ragged ? key.total_k : key.max_k;
  const int64_t heads = key.ragged ? key.row_heads : key.num_heads;
  int64_t bytes = num_q * heads * 4;
  bytes += key.deterministic ? key.num_heads * round_up(key.max_q, 64) * round_up(key.max_k, 64) * 2
                             : num_q * heads * key.head_size * 4;
  if (key.num_kv_heads < key.num_heads)
    bytes += num_k * heads * (key.head_size + key.value_size) * (key.ragged ? 4 : 2);
  return bytes;
}

void execute(Context& ctx, const CudnnGraphKey& key, const CudnnPointers& pointers) {
  CudnnState& state = state_of(ctx);
  const std::shared_ptr<const CudnnGraph> graph =
      state.graphs.get(key, [&] { return std::make_shared<const CudnnGraph>(state.handle, key); });
  use_long_lived(ctx, graph);
  const Tensor workspace = ctx.empty({graph->workspace_bytes()}, DType::kU8);
  graph->execute(state.handle, pointers, workspace.address());
}

CudnnRagged ragged_pointers(const Context& ctx, const CudnnGraphKey& key, const CallLaunch& launch,
                            const Span& span, const AttentionSizes& sizes) {
  if (!key.ragged) return {};
  const std::shared_ptr<const RaggedTables> tables =
      state_of(ctx).tables.get(table_key(launch.entries, sizes, key.batch), [&] {
        return std::make_shared<const RaggedTables>(long_lived_context(ctx), launch.entries, span,
                                                    sizes, key.batch);
      });
  use_long_lived(ctx, tables);
  return tables->pointers();
}

// Element `column` of row `row` of a tensor [rows, heads, size] or [rows, heads].
void* element(const Tensor& tensor, int64_t row, int64_t column = 0) {
  const int64_t row_elements = tensor.rank() == 3 ? tensor.dim(1) * tensor.dim(2) : tensor.dim(1);
  return tensor.address() + (row * row_elements + column) * dtype_size(tensor.dtype());
}

template <class Op>
AttentionSizes checked_sizes(const Op& op, const AttentionCall& call) {
  const Tensor &q = op.q_THD, &k = op.k_SKD, &v = op.v_SKV;
  LONGSHIP_CHECK(q.rank() == 3 && k.rank() == 3 && v.rank() == 3 && q.dim(2) == k.dim(2) &&
                     k.dim(0) == v.dim(0) && k.dim(1) == v.dim(1),
                 "attention of q {}, k {} and v {}", shape_string(q.shape()),
                 shape_string(k.shape()), shape_string(v.shape()));
  auto check = [&](const char* name, const Tensor& tensor, const Shape& shape, DType dtype) {
    LONGSHIP_CHECK(tensor.shape() == shape && tensor.dtype() == dtype && tensor.is_contiguous() &&
                       tensor.device() == q.device(),
                   "attention of q {} with {} {} in {} on {}", shape_string(q.shape()), name,
                   shape_string(tensor.shape()), dtype_name(tensor.dtype()),
                   device_name(tensor.device()));
  };
  check("q", q, q.shape(), q.dtype());
  check("k", k, k.shape(), q.dtype());
  check("v", v, v.shape(), q.dtype());
  check("o", op.o_THV, {q.dim(0), q.dim(1), v.dim(2)}, q.dtype());
  check("lse", op.lse_TH, {q.dim(0), q.dim(1)}, DType::kF32);
  if constexpr (requires { op.do_THV; }) {
    check("do", op.do_THV, op.o_THV.shape(), q.dtype());
    check("dq", op.dq_THD, q.shape(), q.dtype());
    check("dk", op.dk_SKD, k.shape(), q.dtype());
    check("dv", op.dv_SKV, v.shape(), q.dtype());
  }
  auto is_inside = [](int64_t begin, int64_t length, int64_t rows) {
    return begin >= 0 && length > 0 && length <= std::numeric_limits<int32_t>::max() &&
           begin <= rows - length;
  };
  for (const CallEntry& entry : call.entries)
    LONGSHIP_CHECK(is_inside(entry.q_begin, entry.q_length, q.dim(0)) &&
                       is_inside(entry.k_begin, entry.k_length, k.dim(0)),
                   "attention of {} queries from {} and {} keys from {}, of {} and {} rows",
                   entry.q_length, entry.q_begin, entry.k_length, entry.k_begin, q.dim(0),
                   k.dim(0));
  const AttentionSizes sizes{.num_heads = q.dim(1),
                             .num_kv_heads = k.dim(1),
                             .head_size = q.dim(2),
                             .value_size = v.dim(2),
                             .dtype = q.dtype()};
  require_gpu_attention("attention call", sizes);
  return sizes;
}

// How many key/value heads with their query heads a deterministic backward takes at a time.
int64_t heads_at_a_time(const CudnnGraphKey& key, int64_t score_bytes) {
  const int64_t of_one = key.num_heads / key.num_kv_heads * key.max_q * key.max_k * 2;
  int64_t count = key.num_kv_heads;
  while (count > 1 && (key.num_kv_heads % count != 0 || count * of_one > score_bytes)) --count;
  return count;
}

}  // namespace

void CudnnAttention::forward(Context& ctx, const AttentionCall& call, const CallForward& op) const {
  const AttentionSizes sizes = checked_sizes(op, call);
  if (call.entries.empty() || !op.q_THD.has_elements()) return;
  for (const CallLaunch& launch : forward_launches(call)) {
    const Span span(launch.entries);
    const CudnnGraphKey key = graph_key(launch, span, sizes, op.scale);
    execute(ctx, key,
            {.q = element(op.q_THD, span.q_begin),
             .k = element(op.k_SKD, span.k_begin),
             .v = element(op.v_SKV, span.k_begin),
             .o = element(op.o_THV, span.q_begin),
             .lse = element(op.lse_TH, span.q_begin),
             .ragged = ragged_pointers(ctx, key, launch, span, sizes)});
  }
}

void CudnnAttention::backward(Context& ctx, const AttentionCall& call,
                              const CallBackward& op) const {
  const AttentionSizes sizes = checked_sizes(op, call);
  const bool deterministic = options_.deterministic;
  const std::vector<CallLaunch> launches =
      deterministic ? separate_backward_launches(call) : backward_launches(call);
  for (const CallLaunch& launch : launches) {
    const Span span(launch.entries);
    CudnnGraphKey key = graph_key(launch, span, sizes, op.scale);
    key.backward = true;
    key.deterministic = deterministic;
    if (key.ragged) {
      key.total_q = total_bucket(span.num_q());
      key.total_k = total_bucket(span.num_k());
      if (deterministic) {  // the scores fill the whole limits
        key.max_q = round_up(span.max_q, kTileRows);
        key.max_k = round_up(span.max_k, kTileRows);
      }
    }
    const int64_t kv_heads =
        deterministic ? heads_at_a_time(key, options_.score_bytes) : key.num_kv_heads;
    const int64_t group = sizes.num_heads / sizes.num_kv_heads;
    key.num_kv_heads = kv_heads;
    key.num_heads = kv_heads * group;
    const Tensor lse =
        key.ragged ? op.lse_TH
                   : op.lse_TH.slice(0, span.q_begin, span.num_q()).transpose(0, 1).contiguous();
    if (!op.q_THD.has_elements()) {
      ctx.empty({planned_workspace(key)}, DType::kU8);
      continue;
    }
    const CudnnRagged ragged = ragged_pointers(ctx, key, launch, span, sizes);
    for (int64_t kv_head = 0; kv_head < sizes.num_kv_heads; kv_head += kv_heads) {
      const int64_t head = kv_head * group;
      auto of_queries = [&](const Tensor& tensor) {
        return element(tensor, span.q_begin, head * tensor.dim(2));
      };
      auto of_keys = [&](const Tensor& tensor) {
        return element(tensor, span.k_begin, kv_head * tensor.dim(2));
      };
      execute(ctx, key,
              {.q = of_queries(op.q_THD),
               .k = of_keys(op.k_SKD),
               .v = of_keys(op.v_SKV),
               .o = of_queries(op.o_THV),
               .lse = key.ragged ? element(lse, span.q_begin, head) : element(lse, head),
               .d_o = of_queries(op.do_THV),
               .dq = of_queries(op.dq_THD),
               .dk = of_keys(op.dk_SKD),
               .dv = of_keys(op.dv_SKV),
               .ragged = ragged});
    }
  }
}

}  // namespace longship
