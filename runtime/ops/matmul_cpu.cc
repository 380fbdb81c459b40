#include "runtime/ops/matmul_cpu.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/matrix.h"
#include "runtime/parallel_for.h"

namespace longship {
namespace {

struct Product {
  Matrix a_MK, b_KN, c_MN;
  Matrix bias_1N;  // data is null without a bias
  bool accumulate = false;
};

// One extent cut into tiles whose edges fall on multiples of 16.
struct Cut {
  int64_t extent = 0;
  int64_t num_tiles = 1;

  int64_t edge(int64_t tile) const {
    if (tile == num_tiles) return extent;
    return static_cast<int64_t>(static_cast<__int128>(extent) * tile / num_tiles) / 16 * 16;
  }
};

int64_t power_of_two_at_most(int64_t value) {
  return static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(value, 1))));
}

// Slabs of 128 to 1024 rows over all columns are fastest; columns are cut when rows are too few to
// keep eight threads busy. Powers of two share out evenly over the usual numbers of threads.
std::pair<Cut, Cut> cut_tiles(int64_t M, int64_t N, int64_t K) {
  Cut rows{M}, columns{N};
  const double work = static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
  if (work < 1 << 19) return {rows, columns};
  rows.num_tiles = power_of_two_at_most(M / std::clamp<int64_t>(M / 32, 128, 512));
  if (rows.num_tiles < 8)
    columns.num_tiles = std::min(8 / rows.num_tiles, power_of_two_at_most(N / 128));
  return {rows, columns};
}

// Makes oneDNN compute on the calling thread alone: it shares work out by the number of threads,
// and its sums over K change with that number.
class OneThread {
 public:
  OneThread() : saved_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(saved_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int saved_;
};

dnnl::memory::desc describe(const Matrix& m) {
  return {{m.rows, m.columns},
          m.dtype == DType::kBF16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32,
          dnnl::memory::dims{m.row_stride, m.column_stride}};
}

dnnl::matmul::primitive_desc describe(const Product& product, const dnnl::engine& engine) {
  dnnl::primitive_attr attributes;
  if (product.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const auto a = describe(product.a_MK), b = describe(product.b_KN), c = describe(product.c_MN);
#if DNNL_VERSION_MAJOR >= 3
  if (product.bias_1N.data == nullptr) return {engine, a, b, c, attributes};
  return {engine, a, b, describe(product.bias_1N), c, attributes};
#else
  if (product.bias_1N.data == nullptr) return {dnnl::matmul::desc(a, b, c), attributes, engine};
  return {dnnl::matmul::desc(a, b, describe(product.bias_1N), c), attributes, engine};
#endif
}

// oneDNN keeps the compiled kernel of every shape in its own cache, so that making the primitive
// again takes microseconds; engine and stream are handles of a tenth of one.
void multiply_onednn(const Product& product) {
  const OneThread one_thread;
  try {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const dnnl::matmul::primitive_desc description = describe(product, engine);
    auto bind = [&](const Matrix& m) { return dnnl::memory(describe(m), engine, m.data); };
    std::unordered_map<int, dnnl::memory> arguments = {
        {DNNL_ARG_SRC, bind(product.a_MK)},
        {DNNL_ARG_WEIGHTS, bind(product.b_KN)},
        {DNNL_ARG_DST, bind(product.c_MN)},
    };
    if (product.bias_1N.data != nullptr) arguments.emplace(DNNL_ARG_BIAS, bind(product.bias_1N));
    dnnl::matmul(description).execute(stream, arguments);
    stream.wait();
  } catch (const dnnl::error& error) {
    const bool memory = error.status == dnnl_out_of_memory;
    throw Error(
        memory ? ErrorCode::kOutOfMemory : ErrorCode::kInternal,
        {.what = fmt::format("oneDNN cannot multiply [{}, {}] by [{}, {}]", product.a_MK.rows,
                             product.a_MK.columns, product.b_KN.rows, product.b_KN.columns),
         .found = error.what()});
  }
}

// oneDNN 3.6 and 3.7 write a result of one column as if its rows were packed, whatever the stride
// says, so such a result passes through a packed column.
void multiply_one_column(const Product& product) {
  const Matrix& c = product.c_MN;
  const size_t size = static_cast<size_t>(dtype_size(c.dtype));
  std::vector<std::byte> column(static_cast<size_t>(c.rows) * size);
  Product packed = product;
  packed.c_MN.data = column.data();
  packed.c_MN.row_stride = 1;
  if (product.accumulate)
    for (int64_t row = 0; row < c.rows; ++row)
      std::memcpy(packed.c_MN.at(row, 0), c.at(row, 0), size);
  multiply_onednn(packed);
  for (int64_t row = 0; row < c.rows; ++row)
    std::memcpy(c.at(row, 0), packed.c_MN.at(row, 0), size);
}

// Whether oneDNN multiplies bf16 on this machine with more than its slow reference loops.
bool cpu_multiplies_bf16() {
  static const bool answer = [] {
    try {
      const Matrix m{nullptr, DType::kBF16, 64, 64, 64, 1};
      const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
      const auto description = describe({m, m, m, {}, false}, engine);
      return std::string_view(description.impl_info_str()).find("ref") == std::string_view::npos;
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return answer;
}

// c is computed in strips of kStrip columns; a strip of b is packed once per kDepth of the sum.
void multiply_f64(const Product& product) {
  constexpr int64_t kStrip = 32, kDepth = 256;
  const Matrix &a = product.a_MK, &b = product.b_KN, &c = product.c_MN;
  const auto* a_data = reinterpret_cast<const double*>(a.data);
  const auto* b_data = reinterpret_cast<const double*>(b.data);
  const auto* bias = reinterpret_cast<const double*>(product.bias_1N.data);
  std::vector<double> strip(kStrip * kDepth);
  for (int64_t n0 = 0; n0 < c.columns; n0 += kStrip) {
    const int64_t width = std::min(kStrip, c.columns - n0);
    for (int64_t k0 = 0; k0 < a.columns; k0 += kDepth) {
      const int64_t depth = std::min(kDepth, a.columns - k0);
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t n = 0; n < width; ++n)
          strip[k * kStrip + n] = b_data[(k0 + k) * b.row_stride + (n0 + n) * b.column_stride];
      for (int64_t m = 0; m < c.rows; ++m) {
        auto* c_row = reinterpret_cast<double*>(c.at(m, n0));
        std::array<double, kStrip> sum{};
        if (k0 > 0 || product.accumulate)
          for (int64_t n = 0; n < width; ++n) sum[n] = c_row[n];
        if (k0 == 0 && bias != nullptr)
          for (int64_t n = 0; n < width; ++n) sum[n] += bias[n0 + n];
        const double* a_row = a_data + m * a.row_stride + k0 * a.column_stride;
        for (int64_t k = 0; k < depth; ++k) {
          const double factor = a_row[k * a.column_stride];
          for (int64_t n = 0; n < kStrip; ++n) sum[n] += factor * strip[k * kStrip + n];
        }
        for (int64_t n = 0; n < width; ++n) c_row[n] = sum[n];
      }
    }
  }
}

void multiply_tiles(const Context& ctx, const Product& product) {
  const auto [rows, columns] =
      cut_tiles(product.c_MN.rows, product.c_MN.columns, product.a_MK.columns);
  parallel_for_dynamic(ctx, rows.num_tiles * columns.num_tiles, [&](int64_t tile) {
    const int64_t i = tile / columns.num_tiles, j = tile % columns.num_tiles;
    const int64_t m0 = rows.edge(i), m = rows.edge(i + 1) - m0;
    const int64_t n0 = columns.edge(j), n = columns.edge(j + 1) - n0;
    Product part = product;
    part.a_MK = product.a_MK.block(m0, m, 0, product.a_MK.columns);
    part.b_KN = product.b_KN.block(0, product.b_KN.rows, n0, n);
    part.c_MN = product.c_MN.block(m0, m, n0, n);
    if (product.bias_1N.data != nullptr) part.bias_1N = product.bias_1N.block(0, 1, n0, n);
    if (product.c_MN.dtype == DType::kF64) {
      multiply_f64(part);
    } else if (part.c_MN.columns == 1 && part.c_MN.row_stride != 1) {
      multiply_one_column(part);
    } else {
      multiply_onednn(part);
    }
  });
}

// bf16 on a CPU whose oneDNN lacks it: b is widened to fp32 once, a and c by blocks of rows.
void multiply_as_f32(const Context& ctx, const MatmulOperands& op, bool accumulate) {
  constexpr int64_t kRows = 1024;
  const Tensor &a_MK = op.a_MK, &c_MN = op.c_MN, &bias_N = op.addends.bias_N;
  const Tensor wide_b_KN = op.b_KN.to(DType::kF32);
  const Tensor wide_bias_N = bias_N.defined() ? bias_N.to(DType::kF32) : Tensor();
  for (int64_t row = 0; row < c_MN.dim(0); row += kRows) {
    const int64_t num_rows = std::min(kRows, c_MN.dim(0) - row);
    const Tensor c = c_MN.slice(0, row, num_rows);
    const Tensor wide_c = c.dtype() == DType::kF32 || accumulate
                              ? c.to(DType::kF32)
                              : ctx.empty(c.shape(), DType::kF32);
    matmul_cpu(ctx, {a_MK.slice(0, row, num_rows).to(DType::kF32),
                     wide_b_KN,
                     {wide_bias_N, accumulate ? wide_c : Tensor()},
                     wide_c});
    if (c.dtype() != DType::kF32) c.copy_from(wide_c);
  }
}

}  // namespace

void matmul_cpu(const Context& ctx, const MatmulOperands& op) {
  const bool accumulate = op.addends.residual_MN.defined();
  if (accumulate && !is_same_memory(op.addends.residual_MN, op.c_MN))
    op.c_MN.copy_from(op.addends.residual_MN);
  if (op.a_MK.dtype() == DType::kBF16 && !cpu_multiplies_bf16())
    return multiply_as_f32(ctx, op, accumulate);
  Product product{matrix_of(op.a_MK), matrix_of(op.b_KN), matrix_of(op.c_MN), {}, accumulate};
  if (op.addends.bias_N.defined()) product.bias_1N = matrix_of(op.addends.bias_N.reshape({1, -1}));
  if (product.c_MN.column_stride != 1) {
    // c^T = b^T a^T, so that c is always written along its rows.
    product = {product.b_KN.transposed(),
               product.a_MK.transposed(),
               product.c_MN.transposed(),
               {},
               accumulate};
  }
  multiply_tiles(ctx, product);
}

}  // namespace longship
