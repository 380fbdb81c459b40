// Legend: T query rows, S key rows, H query heads, K key/value heads, D head size, V value size.
//
// Scores are computed transposed to the usual picture: a panel has neighbouring queries (forward,
// dq) or keys (dk, dv) on its lanes and one row for each token of the other side. So the running
// maximum, the sums and the products need no horizontal operation, and only the lanes' operands are
// ever transposed, once per tile.
#include "attention/softmax_cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/lane_tiles.h"
#include "attention/panel.h"
#include "attention/thread_scratch.h"
#include "runtime/parallel_for.h"
#include "runtime/vector_exp.h"

namespace longship {
namespace {

constexpr int64_t kTilePanels = 4;
constexpr int64_t kBlockRows = 128;

template <class A>
constexpr A kInfinity = std::numeric_limits<A>::infinity();

// The operands of one block with their extents.
template <class T>
struct Operands {
  using A = Accumulator<T>;

  explicit Operands(const SoftmaxBlockInput& input)
      : q(input.q_THD.data<T>()),
        k(input.k_SKD.data<T>()),
        v(input.v_SKV.data<T>()),
        num_queries(input.q_THD.dim(0)),
        num_keys(input.k_SKD.dim(0)),
        num_heads(input.q_THD.dim(1)),
        num_kv_heads(input.k_SKD.dim(1)),
        head_size(input.q_THD.dim(2)),
        value_size(input.v_SKV.dim(2)),
        kv_head(input.kv_head),
        scale(static_cast<A>(input.scale)) {}

  const T *q, *k, *v;
  int64_t num_queries, num_keys, num_heads, num_kv_heads, head_size, value_size;
  const std::vector<int64_t>& kv_head;
  A scale;

  // Offsets of one token's features, and the distances from a token to the next.
  int64_t q_at(int64_t t, int64_t h) const { return (t * num_heads + h) * head_size; }
  int64_t o_at(int64_t t, int64_t h) const { return (t * num_heads + h) * value_size; }
  int64_t k_at(int64_t s, int64_t h) const { return (s * num_kv_heads + h) * head_size; }
  int64_t v_at(int64_t s, int64_t h) const { return (s * num_kv_heads + h) * value_size; }
  int64_t q_step() const { return num_heads * head_size; }
  int64_t o_step() const { return num_heads * value_size; }
  int64_t k_step() const { return num_kv_heads * head_size; }
  int64_t v_step() const { return num_kv_heads * value_size; }
};

template <class A>
void hide_scores(const PanelRows& rows, A* scores) {
  for (int64_t r = 0; r < rows.count; ++r) {
    A* row = scores + r * kPanelLanes<A>;
    const int64_t before = std::clamp<int64_t>(rows.hidden_before(r), 0, kPanelLanes<A>);
    const int64_t from = std::clamp<int64_t>(rows.hidden_from(r), 0, kPanelLanes<A>);
    std::fill(row, row + before, -kInfinity<A>);
    std::fill(row + from, row + kPanelLanes<A>, -kInfinity<A>);
  }
}

// Follows a panel of scores: they become exp(score - new maximum), `sum` grows by them, and `decay`
// is what earlier sums shrink by. A query that has seen no key keeps maximum -inf and sum 0.
template <class A>
void softmax_panel(int64_t num_rows, A* scores, A* maximum, A* sum, A* decay) {
  constexpr int64_t kLanes = kPanelLanes<A>;
  alignas(kVectorBytes) A base[kLanes], total[kLanes] = {};
  for (int64_t i = 0; i < kLanes; i += Simd<A>::kLanes) {
    // Two chains of maxima hide the latency of one.
    auto even = Simd<A>::load(maximum + i), odd = even;
    int64_t r = 0;
    for (; r + 2 <= num_rows; r += 2) {
      even = Simd<A>::max(Simd<A>::load(scores + r * kLanes + i), even);
      odd = Simd<A>::max(Simd<A>::load(scores + (r + 1) * kLanes + i), odd);
    }
    if (r < num_rows) even = Simd<A>::max(Simd<A>::load(scores + r * kLanes + i), even);
    Simd<A>::store(base + i, Simd<A>::max(even, odd));
  }
  for (int64_t i = 0; i < kLanes; ++i) {
    const A old_maximum = maximum[i];
    maximum[i] = base[i];
    if (base[i] == -kInfinity<A>) base[i] = 0;
    decay[i] = vector_exp(old_maximum - base[i]);
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    A* row = scores + r * kLanes;
    for (int64_t i = 0; i < kLanes; ++i) {
      row[i] = vector_exp(row[i] - base[i]);
      total[i] += row[i];
    }
  }
  for (int64_t i = 0; i < kLanes; ++i) sum[i] = sum[i] * decay[i] + total[i];
}

template <class T>
void forward_blocks(const Context& ctx, const Operands<T>& in, const BlockMask& mask,
                    Accumulator<T>* o, Accumulator<T>* lse) {
  using A = Accumulator<T>;
  constexpr int64_t kLanes = kPanelLanes<A>, kTileLanes = kTilePanels * kLanes;
  const int64_t D = in.head_size, V = in.value_size;
  const LaneTiles tiles = LaneTiles::of_queries(mask, kTileLanes, in.num_queries, in.num_keys);
  const int64_t num_tiles = static_cast<int64_t>(tiles.tiles().size());
  const ThreadScratch<A> scratch(
      ctx, {kTileLanes * D, kTileLanes * V, kTileLanes, kTileLanes, kLanes, kBlockRows * D,
            kBlockRows * V, kBlockRows * kLanes});
  parallel_for_dynamic(ctx, num_tiles * in.num_heads, [&](int64_t index) {
    // The last tiles of a long document see the most keys: they go first.
    const LaneTile& tile = tiles.tiles()[static_cast<size_t>(num_tiles - 1 - index / in.num_heads)];
    const int64_t h = index % in.num_heads, kv = in.kv_head[static_cast<size_t>(h)];
    A *q_DL = scratch.part(0), *o_VL = scratch.part(1), *maximum_L = scratch.part(2),
      *sum_L = scratch.part(3), *factor_L = scratch.part(4), *k_RD = scratch.part(5),
      *v_RV = scratch.part(6), *scores_RL = scratch.part(7);
    auto lanes_of = [&](int64_t lane) { return std::min(kLanes, tile.length - lane); };
    const int64_t used_lanes = (tile.length + kLanes - 1) / kLanes * kLanes;
    for (int64_t lane = 0; lane < tile.length; lane += kLanes)
      pack_panel(in.q + in.q_at(tile.begin + lane, h), in.q_step(), lanes_of(lane), D,
                 q_DL + lane * D);
    std::fill_n(o_VL, used_lanes * V, A{0});
    std::fill_n(maximum_L, kTileLanes, -kInfinity<A>);
    std::fill_n(sum_L, kTileLanes, A{0});

    tiles.walk(
        tile, kLanes, kBlockRows,
        [&](int64_t row, int64_t count) {
          pack_rows(in.k + in.k_at(row, kv), in.k_step(), count, D, k_RD);
          pack_rows(in.v + in.v_at(row, kv), in.v_step(), count, V, v_RV);
        },
        [&](const PanelRows& rows) {
          const int64_t lane = rows.panel * kLanes;
          multiply_rows(k_RD + rows.first * D, D, rows.count, q_DL + lane * D, D, in.scale,
                        scores_RL);
          if (!rows.all_visible) hide_scores(rows, scores_RL);
          softmax_panel(rows.count, scores_RL, maximum_L + lane, sum_L + lane, factor_L);
          accumulate_columns(v_RV + rows.first * V, V, V, scores_RL, rows.count, factor_L,
                             o_VL + lane * V);
        });

    for (int64_t lane = 0; lane < tile.length; lane += kLanes) {
      for (int64_t i = 0; i < lanes_of(lane); ++i) {
        const A maximum = maximum_L[lane + i], sum = sum_L[lane + i];
        const bool sees_nothing = maximum == -kInfinity<A> && sum == 0;
        factor_L[i] = sees_nothing ? 0 : 1 / sum;
        lse[(tile.begin + lane + i) * in.num_heads + h] =
            sees_nothing ? -kInfinity<A> : maximum + std::log(sum);
      }
      add_panel(o_VL + lane * V, factor_L, lanes_of(lane), V, o + in.o_at(tile.begin + lane, h),
                in.o_step());
    }
  });
}

// Turns scores s and products dp = do v^T of a panel into p = exp(s - lse) and
// ds = p * (dp - delta), with one lse and delta per lane or per row.
template <bool kQueriesOnLanes, class A>
void gradient_panel(int64_t num_rows, const A* lse, const A* delta, A* s, A* dp) {
  constexpr int64_t kLanes = kPanelLanes<A>;
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t i = 0; i < kLanes; ++i) {
      const int64_t query = kQueriesOnLanes ? i : r;
      const A p = vector_exp(s[r * kLanes + i] - lse[query]);
      s[r * kLanes + i] = p;
      dp[r * kLanes + i] = p * (dp[r * kLanes + i] - delta[query]);
    }
  }
}

// lse of one query for the backward: exp(score - lse) of a query that saw nothing must be 0.
template <class A>
A backward_lse(A lse) {
  return lse == -kInfinity<A> ? kInfinity<A> : lse;
}

// What the backward reads and adds to.
template <class T>
struct Gradients {
  using A = Accumulator<T>;

  explicit Gradients(const SoftmaxBlockBackward& gradients)
      : d_o(gradients.do_THV.data<T>()),
        lse(gradients.lse_TH.data<A>()),
        delta(gradients.delta_or_o.data<A>()),
        dq(gradients.dq_THD.data<A>()),
        dk(gradients.dk_SKD.data<A>()),
        dv(gradients.dv_SKV.data<A>()) {}

  const T* d_o;
  const A *lse, *delta;
  A *dq, *dk, *dv;
};

// dq += scale * sum over keys of ds k
template <class T>
void backward_queries(const Context& ctx, const Operands<T>& in, const BlockMask& mask,
                      const Gradients<T>& grad) {
  using A = Accumulator<T>;
  constexpr int64_t kLanes = kPanelLanes<A>, kTileLanes = kTilePanels * kLanes;
  const int64_t D = in.head_size, V = in.value_size;
  const LaneTiles tiles = LaneTiles::of_queries(mask, kTileLanes, in.num_queries, in.num_keys);
  const int64_t num_tiles = static_cast<int64_t>(tiles.tiles().size());
  const ThreadScratch<A> scratch(
      ctx, {kTileLanes * D, kTileLanes * V, kTileLanes * D, kTileLanes, kTileLanes, kLanes,
            kBlockRows * D, kBlockRows * V, kBlockRows * kLanes, kBlockRows * kLanes});
  parallel_for_dynamic(ctx, num_tiles * in.num_heads, [&](int64_t index) {
    const LaneTile& tile = tiles.tiles()[static_cast<size_t>(num_tiles - 1 - index / in.num_heads)];
    const int64_t h = index % in.num_heads, kv = in.kv_head[static_cast<size_t>(h)];
    A *q_DL = scratch.part(0), *do_VL = scratch.part(1), *dq_DL = scratch.part(2),
      *lse_L = scratch.part(3), *delta_L = scratch.part(4), *factor_L = scratch.part(5),
      *k_RD = scratch.part(6), *v_RV = scratch.part(7), *scores_RL = scratch.part(8),
      *dp_RL = scratch.part(9);
    auto lanes_of = [&](int64_t lane) { return std::min(kLanes, tile.length - lane); };
    const int64_t used_lanes = (tile.length + kLanes - 1) / kLanes * kLanes;
    std::fill_n(dq_DL, used_lanes * D, A{0});
    std::fill_n(lse_L, kTileLanes, kInfinity<A>);
    std::fill_n(delta_L, kTileLanes, A{0});
    for (int64_t lane = 0; lane < tile.length; lane += kLanes) {
      const int64_t t = tile.begin + lane;
      pack_panel(in.q + in.q_at(t, h), in.q_step(), lanes_of(lane), D, q_DL + lane * D);
      pack_panel(grad.d_o + in.o_at(t, h), in.o_step(), lanes_of(lane), V, do_VL + lane * V);
    }
    for (int64_t i = 0; i < tile.length; ++i) {
      lse_L[i] = backward_lse(grad.lse[(tile.begin + i) * in.num_heads + h]);
      delta_L[i] = grad.delta[(tile.begin + i) * in.num_heads + h];
    }

    std::fill_n(factor_L, kLanes, A{1});
    tiles.walk(
        tile, kLanes, kBlockRows,
        [&](int64_t row, int64_t count) {
          pack_rows(in.k + in.k_at(row, kv), in.k_step(), count, D, k_RD);
          pack_rows(in.v + in.v_at(row, kv), in.v_step(), count, V, v_RV);
        },
        [&](const PanelRows& rows) {
          const int64_t lane = rows.panel * kLanes;
          const A* keys = k_RD + rows.first * D;
          multiply_rows(keys, D, rows.count, q_DL + lane * D, D, in.scale, scores_RL);
          multiply_rows(v_RV + rows.first * V, V, rows.count, do_VL + lane * V, V, A{1}, dp_RL);
          if (!rows.all_visible) hide_scores(rows, scores_RL);
          gradient_panel<true>(rows.count, lse_L + lane, delta_L + lane, scores_RL, dp_RL);
          accumulate_columns(keys, D, D, dp_RL, rows.count, factor_L, dq_DL + lane * D);
        });

    std::fill_n(factor_L, kLanes, in.scale);
    for (int64_t lane = 0; lane < tile.length; lane += kLanes)
      add_panel(dq_DL + lane * D, factor_L, lanes_of(lane), D,
                grad.dq + in.q_at(tile.begin + lane, h), in.q_step());
  });
}

// dk += scale * sum over queries of ds q, dv += sum over queries of p do; query heads that share a
// key/value head are summed in ascending order.
template <class T>
void backward_keys(const Context& ctx, const Operands<T>& in, const BlockMask& mask,
                   const Gradients<T>& grad) {
  using A = Accumulator<T>;
  constexpr int64_t kLanes = kPanelLanes<A>, kTileLanes = kTilePanels * kLanes;
  const int64_t D = in.head_size, V = in.value_size;
  const LaneTiles tiles = LaneTiles::of_keys(mask, kTileLanes, in.num_queries, in.num_keys);
  const int64_t num_tiles = static_cast<int64_t>(tiles.tiles().size());
  const ThreadScratch<A> scratch(
      ctx, {kTileLanes * D, kTileLanes * V, kTileLanes * D, kTileLanes * V, kLanes, kBlockRows * D,
            kBlockRows * V, kBlockRows, kBlockRows, kBlockRows * kLanes, kBlockRows * kLanes});
  parallel_for_dynamic(ctx, num_tiles * in.num_kv_heads, [&](int64_t index) {
    // The first tiles of a long document are seen by the most queries: they go first.
    const LaneTile& tile = tiles.tiles()[static_cast<size_t>(index / in.num_kv_heads)];
    const int64_t kv = index % in.num_kv_heads;
    const auto heads = std::equal_range(in.kv_head.begin(), in.kv_head.end(), kv);
    const int64_t end_head = heads.second - in.kv_head.begin();
    A *k_DL = scratch.part(0), *v_VL = scratch.part(1), *dk_DL = scratch.part(2),
      *dv_VL = scratch.part(3), *factor_L = scratch.part(4), *q_RD = scratch.part(5),
      *do_RV = scratch.part(6), *lse_R = scratch.part(7), *delta_R = scratch.part(8),
      *scores_RL = scratch.part(9), *dp_RL = scratch.part(10);
    auto lanes_of = [&](int64_t lane) { return std::min(kLanes, tile.length - lane); };
    const int64_t used_lanes = (tile.length + kLanes - 1) / kLanes * kLanes;
    std::fill_n(dk_DL, used_lanes * D, A{0});
    std::fill_n(dv_VL, used_lanes * V, A{0});
    for (int64_t lane = 0; lane < tile.length; lane += kLanes) {
      const int64_t s = tile.begin + lane;
      pack_panel(in.k + in.k_at(s, kv), in.k_step(), lanes_of(lane), D, k_DL + lane * D);
      pack_panel(in.v + in.v_at(s, kv), in.v_step(), lanes_of(lane), V, v_VL + lane * V);
    }

    std::fill_n(factor_L, kLanes, A{1});
    for (int64_t h = heads.first - in.kv_head.begin(); h < end_head; ++h)
      tiles.walk(
          tile, kLanes, kBlockRows,
          [&](int64_t row, int64_t count) {
            pack_rows(in.q + in.q_at(row, h), in.q_step(), count, D, q_RD);
            pack_rows(grad.d_o + in.o_at(row, h), in.o_step(), count, V, do_RV);
            for (int64_t r = 0; r < count; ++r) {
              lse_R[r] = backward_lse(grad.lse[(row + r) * in.num_heads + h]);
              delta_R[r] = grad.delta[(row + r) * in.num_heads + h];
            }
          },
          [&](const PanelRows& rows) {
            const int64_t lane = rows.panel * kLanes;
            const A *queries = q_RD + rows.first * D, *d_outputs = do_RV + rows.first * V;
            multiply_rows(queries, D, rows.count, k_DL + lane * D, D, in.scale, scores_RL);
            multiply_rows(d_outputs, V, rows.count, v_VL + lane * V, V, A{1}, dp_RL);
            if (!rows.all_visible) hide_scores(rows, scores_RL);
            gradient_panel<false>(rows.count, lse_R + rows.first, delta_R + rows.first, scores_RL,
                                  dp_RL);
            accumulate_columns(d_outputs, V, V, scores_RL, rows.count, factor_L, dv_VL + lane * V);
            accumulate_columns(queries, D, D, dp_RL, rows.count, factor_L, dk_DL + lane * D);
          });

    for (int64_t lane = 0; lane < tile.length; lane += kLanes) {
      const int64_t s = tile.begin + lane;
      std::fill_n(factor_L, kLanes, A{1});
      add_panel(dv_VL + lane * V, factor_L, lanes_of(lane), V, grad.dv + in.v_at(s, kv),
                in.v_step());
      std::fill_n(factor_L, kLanes, in.scale);
      add_panel(dk_DL + lane * D, factor_L, lanes_of(lane), D, grad.dk + in.k_at(s, kv),
                in.k_step());
    }
  });
}

void check_tensor(const char* name, const Tensor& tensor, const Shape& shape, DType dtype) {
  LONGSHIP_CHECK(tensor.defined() && tensor.shape() == shape && tensor.dtype() == dtype &&
                     tensor.is_contiguous(),
                 "{} must be contiguous {} {}", name, dtype_name(dtype), shape_string(shape));
}

void check_input(const SoftmaxBlockInput& input) {
  const Tensor &q = input.q_THD, &k = input.k_SKD, &v = input.v_SKV;
  LONGSHIP_CHECK(q.rank() == 3 && k.rank() == 3 && v.rank() == 3, "q {}, k {}, v {}",
                 shape_string(q.shape()), shape_string(k.shape()), shape_string(v.shape()));
  check_tensor("q", q, q.shape(), q.dtype());
  check_tensor("k", k, {k.dim(0), k.dim(1), q.dim(2)}, q.dtype());
  check_tensor("v", v, {k.dim(0), k.dim(1), v.dim(2)}, q.dtype());
  const std::vector<int64_t>& heads = input.kv_head;
  LONGSHIP_CHECK(static_cast<int64_t>(heads.size()) == q.dim(1) &&
                     std::is_sorted(heads.begin(), heads.end()) &&
                     (heads.empty() || (heads.front() >= 0 && heads.back() < k.dim(1))),
                 "kv_head [{}] for {} query heads and {} key/value heads", fmt::join(heads, ", "),
                 q.dim(1), k.dim(1));
}

}  // namespace

SoftmaxBlockOutput SoftmaxCpu::forward(Context& ctx, const SoftmaxBlockInput& input,
                                       const BlockMask& mask, DType o_dtype) const {
  check_input(input);
  const int64_t T = input.q_THD.dim(0), H = input.q_THD.dim(1), V = input.v_SKV.dim(2);
  const DType sums = accumulator_dtype(input.q_THD.dtype());
  LONGSHIP_CHECK(o_dtype == sums, "o in {} of sums in {}", dtype_name(o_dtype), dtype_name(sums));
  SoftmaxBlockOutput output{.o_THV = ctx.zeros({T, H, V}, sums), .lse_TH = ctx.empty({T, H}, sums)};
  dispatch_floating(input.q_THD.dtype(), [&](auto tag) {
    using A = Accumulator<decltype(tag)>;
    A* lse = output.lse_TH.data<A>();
    std::fill_n(lse, T * H, -kInfinity<A>);
    forward_blocks(ctx, Operands<decltype(tag)>(input), mask, output.o_THV.data<A>(), lse);
  });
  return output;
}

void SoftmaxCpu::backward(Context& ctx, const SoftmaxBlockInput& input, const BlockMask& mask,
                          const SoftmaxBlockBackward& gradients) const {
  check_input(input);
  const int64_t T = input.q_THD.dim(0), H = input.q_THD.dim(1), V = input.v_SKV.dim(2);
  const DType sums = accumulator_dtype(input.q_THD.dtype());
  check_tensor("do", gradients.do_THV, {T, H, V}, input.q_THD.dtype());
  check_tensor("lse", gradients.lse_TH, {T, H}, sums);
  check_tensor("delta", gradients.delta_or_o, {T, H}, sums);
  check_tensor("dq", gradients.dq_THD, input.q_THD.shape(), sums);
  check_tensor("dk", gradients.dk_SKD, input.k_SKD.shape(), sums);
  check_tensor("dv", gradients.dv_SKV, input.v_SKV.shape(), sums);
  if (gradients.write_dq) gradients.dq_THD.fill_zero();
  if (gradients.write_dkv) {
    gradients.dk_SKD.fill_zero();
    gradients.dv_SKV.fill_zero();
  }
  dispatch_floating(input.q_THD.dtype(), [&](auto tag) {
    using T = decltype(tag);
    const Operands<T> in(input);
    const Gradients<T> grad(gradients);
    backward_queries(ctx, in, mask, grad);
    backward_keys(ctx, in, mask, grad);
  });
}

}  // namespace longship
