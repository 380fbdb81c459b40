#include "parallel/affine_compose.h"

#include <algorithm>

#include "parallel/cut_segments.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

Shape shape_of_m(Transition transition, int64_t num_maps, int64_t num_heads, int64_t key_size) {
  switch (transition) {
    case Transition::kIdentity:
      break;
    case Transition::kScalar:
      return {num_maps, num_heads};
    case Transition::kDiagonal:
      return {num_maps, num_heads, key_size};
    case Transition::kDense:
      return {num_maps, num_heads, key_size, key_size};
  }
  throw_internal("transition", __FILE__, __LINE__, "a transition without m");
}

// Key rows of the heads of a state, whose columns are neighbours.
template <class T>
struct Rows {
  T* data;
  int64_t head_stride, key_stride;

  T* row(int64_t head, int64_t key) const { return data + head * head_stride + key * key_stride; }
};

template <class T>
Rows<T> rows_of(const Tensor& state_HKV) {
  const Shape& strides = state_HKV.strides();
  LONGSHIP_CHECK(strides[2] == 1 || state_HKV.dim(2) <= 1, "columns of a state lie apart");
  return {state_HKV.data<T>(), strides[0], strides[1]};
}

// out_row += factor * in_row.
template <class T>
void add_scaled(T* __restrict out, T factor, const T* __restrict in, int64_t width) {
  for (int64_t v = 0; v < width; ++v) out[v] += factor * in[v];
}

template <class T>
struct Strided {
  const T* data;
  int64_t stride;
};

// out += sum over keys j, in ascending order, of m[j] * row j of `in`. Four keys at a time, as
// loading and storing `out` for each would cost more than the products.
template <class T>
void add_product(T* __restrict out, const Strided<T>& m_K, const Strided<T>& in_KV,
                 int64_t num_keys, int64_t width) {
  const T *const m = m_K.data, *const in = in_KV.data;
  const int64_t stride = m_K.stride, key_stride = in_KV.stride;
  int64_t j = 0;
  for (; j + 4 <= num_keys; j += 4) {
    const T m0 = m[j * stride], m1 = m[(j + 1) * stride];
    const T m2 = m[(j + 2) * stride], m3 = m[(j + 3) * stride];
    const T* __restrict in0 = in + j * key_stride;
    const T* __restrict in1 = in0 + key_stride;
    const T* __restrict in2 = in1 + key_stride;
    const T* __restrict in3 = in2 + key_stride;
    for (int64_t v = 0; v < width; ++v)
      out[v] = (((out[v] + m0 * in0[v]) + m1 * in1[v]) + m2 * in2[v]) + m3 * in3[v];
  }
  for (; j < num_keys; ++j) add_scaled(out, m[j * stride], in + j * key_stride, width);
}

template <class T>
void apply_typed(const Context& ctx, const AffineMap& map, bool transposed, const Tensor& in_HKV,
                 const Tensor& out_HKV) {
  const int64_t num_heads = out_HKV.dim(0), K = out_HKV.dim(1), width = out_HKV.dim(2);
  const bool has_input = in_HKV.defined();
  const Rows<T> b = rows_of<T>(map.b_HKV), out = rows_of<T>(out_HKV);
  const Rows<T> in = has_input ? rows_of<T>(in_HKV) : Rows<T>{};
  const T* const m = map.m.defined() ? map.m.data<T>() : nullptr;

  auto add_state = [&](T* row, int64_t head, int64_t key) {
    switch (map.transition) {
      case Transition::kIdentity:
        return add_scaled(row, T{1}, in.row(head, key), width);
      case Transition::kScalar:
        return add_scaled(row, m[head], in.row(head, key), width);
      case Transition::kDiagonal:
        return add_scaled(row, m[head * K + key], in.row(head, key), width);
      case Transition::kDense: {
        const T* const m_KK = m + head * K * K;
        const Strided<T> m_K =
            transposed ? Strided<T>{m_KK + key, K} : Strided<T>{m_KK + key * K, 1};
        return add_product(row, m_K, {in.row(head, 0), in.key_stride}, K, width);
      }
    }
  };
  const bool dense = map.transition == Transition::kDense && has_input;
  const int64_t row_cost = std::max<int64_t>(1, dense ? K * width : width);
  parallel_for(ctx, num_heads * K, std::max<int64_t>(1, (1 << 14) / row_cost),
               [&](int64_t begin, int64_t end) {
                 for (int64_t index = begin; index < end; ++index) {
                   const int64_t head = index / K, key = index % K;
                   T* const row = out.row(head, key);
                   std::copy_n(b.row(head, key), width, row);
                   if (has_input) add_state(row, head, key);
                 }
               });
}

}  // namespace

AffineSummary checked_summary(const AffineSummary& summary, const SequencePlan& plan) {
  const int64_t num_maps = std::ssize(cut_segments(plan, plan.rank()));
  const Tensor& b_NHKV = summary.b_NHKV;
  LONGSHIP_CHECK(b_NHKV.defined() && b_NHKV.rank() == 4 && b_NHKV.dim(0) == num_maps,
                 "summary b is {}, expected [{}, H, K, V]", shape_string(b_NHKV.shape()), num_maps);
  LONGSHIP_CHECK(b_NHKV.dtype() == DType::kF32 || b_NHKV.dtype() == DType::kF64,
                 "states are fp32 or fp64, not {}", dtype_name(b_NHKV.dtype()));
  if (summary.transition == Transition::kIdentity) {
    LONGSHIP_CHECK(!summary.m.defined(), "identity transitions have no m");
    return {summary.transition, {}, b_NHKV.contiguous()};
  }
  const Shape expected = shape_of_m(summary.transition, num_maps, b_NHKV.dim(1), b_NHKV.dim(2));
  LONGSHIP_CHECK(
      summary.m.defined() && summary.m.shape() == expected && summary.m.dtype() == b_NHKV.dtype(),
      "summary m is {} {}, expected {} {}", dtype_name(summary.m.dtype()),
      shape_string(summary.m.shape()), dtype_name(b_NHKV.dtype()), shape_string(expected));
  return {summary.transition, summary.m.contiguous(), b_NHKV.contiguous()};
}

AffineMap map_of(const AffineSummary& summary, int64_t index) {
  auto row = [&](const Tensor& rows) {
    return rows.slice(0, index, 1).reshape({rows.shape().begin() + 1, rows.shape().end()});
  };
  return {summary.transition, summary.m.defined() ? row(summary.m) : Tensor(), row(summary.b_NHKV)};
}

void apply(const Context& ctx, const AffineMap& map, ScanDirection direction, const Tensor& in_HKV,
           const Tensor& out_HKV) {
  LONGSHIP_CHECK(map.b_HKV.shape() == out_HKV.shape() &&
                     (!in_HKV.defined() || in_HKV.shape() == out_HKV.shape()),
                 "state {} and b {} into {}", shape_string(in_HKV.shape()),
                 shape_string(map.b_HKV.shape()), shape_string(out_HKV.shape()));
  const bool transposed = direction == ScanDirection::kBackward;
  if (out_HKV.dtype() == DType::kF64)
    apply_typed<double>(ctx, map, transposed, in_HKV, out_HKV);
  else
    apply_typed<float>(ctx, map, transposed, in_HKV, out_HKV);
}

}  // namespace longship
