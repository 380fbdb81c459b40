#include "tests/support/plain_calls.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace longship::testing {
namespace {

// Rows of a tensor in fp64, in memory of their own.
struct Wide {
  Tensor tensor;
  int64_t heads, size;

  explicit Wide(const Tensor& x_THX)
      : tensor(Tensor::empty(std::make_shared<Memory>(), x_THX.shape(), DType::kF64)),
        heads(x_THX.dim(1)),
        size(x_THX.numel() == 0 ? 0 : x_THX.numel() / x_THX.dim(0) / x_THX.dim(1)) {
    tensor.copy_from(x_THX);
  }
  double* at(int64_t row, int64_t head) const {
    return tensor.data<double>() + (row * heads + head) * size;
  }
  // Hands the rows of an entry back.
  void return_rows(const Tensor& to, int64_t begin, int64_t length) const {
    to.slice(0, begin, length).copy_from(tensor.slice(0, begin, length));
  }
};

double dot(const double* a, const double* b, int64_t size) {
  double sum = 0;
  for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

void add_scaled(double factor, const double* from, int64_t size, double* to) {
  for (int64_t i = 0; i < size; ++i) to[i] += factor * from[i];
}

void expect_legal(const AttentionCall& call, int64_t num_queries, int64_t num_keys,
                  bool distinct_keys) {
  EXPECT_FALSE(call.entries.empty());
  int64_t q_end = 0;
  std::set<int64_t> keys;
  for (const CallEntry& rows : call.entries) {
    EXPECT_GE(rows.q_begin, q_end) << "entries share queries or are not in order";
    q_end = rows.q_end();
    EXPECT_TRUE(rows.q_length > 0 && rows.k_length > 0 && rows.k_begin >= 0);
    EXPECT_LE(q_end, num_queries);
    EXPECT_LE(rows.k_end(), num_keys);
    if (call.mask.right && !call.mask.left) {
      EXPECT_LE(rows.q_length, rows.k_length);
    }
    for (int64_t i = 0; i < rows.q_length; ++i) {
      bool sees_any = false;
      for (int64_t j = 0; j < rows.k_length; ++j) sees_any |= call_sees(call.mask, rows, i, j);
      EXPECT_TRUE(sees_any) << "query " << i << " of an entry sees no key";
    }
    for (int64_t j = 0; j < rows.k_length && distinct_keys; ++j)
      EXPECT_TRUE(keys.insert(rows.k_begin + j).second) << "entries share keys";
  }
}

}  // namespace

bool call_sees(const CallMask& mask, const CallEntry& rows, int64_t i, int64_t j) {
  const int64_t x = j - (i + rows.k_length - rows.q_length);
  return (!mask.left || x > -*mask.left) && (!mask.right || x <= *mask.right);
}

void PlainCalls::forward(Context&, const AttentionCall& call, const CallForward& op) const {
  expect_legal(call, op.q_THD.dim(0), op.k_SKD.dim(0), false);
  const Wide q(op.q_THD), k(op.k_SKD), v(op.v_SKV), o(op.o_THV), lse(op.lse_TH);
  for (const CallEntry& rows : call.entries) {
    for (int64_t i = 0; i < rows.q_length; ++i)
      for (int64_t h = 0; h < q.heads; ++h) {
        const int64_t kv = h * k.heads / q.heads;
        double total = 0;
        double* const o_row = o.at(rows.q_begin + i, h);
        std::fill_n(o_row, o.size, 0);
        for (int64_t j = 0; j < rows.k_length; ++j) {
          if (!call_sees(call.mask, rows, i, j)) continue;
          const double p = std::exp(
              op.scale * dot(q.at(rows.q_begin + i, h), k.at(rows.k_begin + j, kv), q.size));
          total += p;
          add_scaled(p, v.at(rows.k_begin + j, kv), v.size, o_row);
        }
        for (int64_t x = 0; x < o.size; ++x) o_row[x] /= total;
        *lse.at(rows.q_begin + i, h) = std::log(total);
      }
    o.return_rows(op.o_THV, rows.q_begin, rows.q_length);
    lse.return_rows(op.lse_TH, rows.q_begin, rows.q_length);
  }
}

void PlainCalls::backward(Context&, const AttentionCall& call, const CallBackward& op) const {
  expect_legal(call, op.q_THD.dim(0), op.k_SKD.dim(0), true);
  const Wide q(op.q_THD), k(op.k_SKD), v(op.v_SKV), o(op.o_THV), lse(op.lse_TH), d_o(op.do_THV);
  const Wide dq(op.dq_THD), dk(op.dk_SKD), dv(op.dv_SKV);
  for (const CallEntry& rows : call.entries) {
    dq.tensor.slice(0, rows.q_begin, rows.q_length).fill_zero();
    dk.tensor.slice(0, rows.k_begin, rows.k_length).fill_zero();
    dv.tensor.slice(0, rows.k_begin, rows.k_length).fill_zero();
    for (int64_t t = rows.q_begin; t < rows.q_end(); ++t)
      for (int64_t h = 0; h < q.heads; ++h) {
        const int64_t kv = h * k.heads / q.heads;
        const double delta = dot(o.at(t, h), d_o.at(t, h), o.size);
        for (int64_t s = rows.k_begin; s < rows.k_end(); ++s) {
          if (!call_sees(call.mask, rows, t - rows.q_begin, s - rows.k_begin)) continue;
          const double p =
              std::exp(op.scale * dot(q.at(t, h), k.at(s, kv), q.size) - *lse.at(t, h));
          const double ds = op.scale * p * (dot(d_o.at(t, h), v.at(s, kv), v.size) - delta);
          add_scaled(ds, k.at(s, kv), k.size, dq.at(t, h));
          add_scaled(ds, q.at(t, h), q.size, dk.at(s, kv));
          add_scaled(p, d_o.at(t, h), v.size, dv.at(s, kv));
        }
      }
    dq.return_rows(op.dq_THD, rows.q_begin, rows.q_length);
    dk.return_rows(op.dk_SKD, rows.k_begin, rows.k_length);
    dv.return_rows(op.dv_SKV, rows.k_begin, rows.k_length);
  }
}

}  // namespace longship::testing
