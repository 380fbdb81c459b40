// Everything here is row by row, and cuBLASLt reads memory column by column, which turns a matrix
// into its transpose. So it is asked for d^T = b^T a^T: `left` is b^T and `right` is a^T.
#include "runtime/cuda/gemm.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <compare>
#include <map>
#include <mutex>
#include <optional>

#include "runtime/cuda/cuda_error.h"

namespace longship {
namespace {

void check_cublas(cublasStatus_t status, std::string_view operation) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const bool memory = status == CUBLAS_STATUS_ALLOC_FAILED;
  throw Error(memory ? ErrorCode::kOutOfMemory : ErrorCode::kInternal,
              {.what = fmt::format("cuBLASLt cannot {}", operation),
               .found = fmt::format("{}: {}", cublasLtGetStatusName(status),
                                    cublasLtGetStatusString(status))});
}

struct Destroy {
  void operator()(cublasLtContext* handle) const { cublasLtDestroy(handle); }
  void operator()(cublasLtMatmulDescOpaque_t* operation) const {
    cublasLtMatmulDescDestroy(operation);
  }
  void operator()(cublasLtMatrixLayoutOpaque_t* layout) const {
    cublasLtMatrixLayoutDestroy(layout);
  }
  void operator()(cublasLtMatmulPreferenceOpaque_t* preference) const {
    cublasLtMatmulPreferenceDestroy(preference);
  }
};
template <class T>
using Handle = std::unique_ptr<T, Destroy>;

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    default:
      throw_unexpected_dtype(dtype);
  }
}

// The power of two that an address is a multiple of, as far as kernels care.
uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address);
  return bits == 0 ? 256 : static_cast<uint32_t>(std::min<uintptr_t>(bits & (~bits + 1), 256));
}

// What a kernel is chosen for: a matrix as it lies in memory, column by column.
struct Stored {
  DType dtype = DType::kF32;
  bool is_transposed = false;  // the matrix meant is the transpose of what is stored
  int64_t rows = 0, columns = 0, column_stride = 0;
  uint32_t alignment = 0;

  auto operator<=>(const Stored&) const = default;
};

// The transpose of m, for cuBLASLt.
Stored stored_transpose(const Matrix& m) {
  if (m.column_stride == 1 && m.row_stride >= m.columns)
    return {m.dtype, false, m.columns, m.rows, m.row_stride, alignment_of(m.data)};
  return {m.dtype, true, m.rows, m.columns, m.column_stride, alignment_of(m.data)};
}

struct PlanKey {
  Stored left, right, c, d;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  uint32_t vector_alignment = 0;  // of the vector that the epilogue reads or writes

  auto operator<=>(const PlanKey&) const = default;
};

struct Plan {
  Handle<cublasLtMatmulDescOpaque_t> operation;
  Handle<cublasLtMatrixLayoutOpaque_t> left, right, c, d;
  std::optional<cublasLtMatmulAlgo_t> algorithm;  // none: cuBLASLt has no kernel for it

  void set_vector(const void* address) const {
    check_cublas(cublasLtMatmulDescSetAttribute(operation.get(), CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                &address, sizeof(address)),
                 "take a vector");
  }
};

Handle<cublasLtMatrixLayoutOpaque_t> layout_of(const Stored& m) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_cublas(
      cublasLtMatrixLayoutCreate(&layout, cuda_type(m.dtype), static_cast<uint64_t>(m.rows),
                                 static_cast<uint64_t>(m.columns), m.column_stride),
      fmt::format("describe a matrix [{}, {}] of stride {}", m.rows, m.columns, m.column_stride));
  return Handle<cublasLtMatrixLayoutOpaque_t>(layout);
}

Handle<cublasLtMatmulDescOpaque_t> operation_of(const PlanKey& key) {
  cublasLtMatmulDesc_t operation = nullptr;
  check_cublas(cublasLtMatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "describe a product");
  Handle<cublasLtMatmulDescOpaque_t> owner(operation);
  auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    check_cublas(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)),
                 "describe a product");
  };
  const cublasOperation_t left = key.left.is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t right = key.right.is_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  set(CUBLASLT_MATMUL_DESC_TRANSA, left);
  set(CUBLASLT_MATMUL_DESC_TRANSB, right);
  set(CUBLASLT_MATMUL_DESC_EPILOGUE, key.epilogue);
  return owner;
}

Handle<cublasLtMatmulPreferenceOpaque_t> preference_of(const PlanKey& key) {
  cublasLtMatmulPreference_t preference = nullptr;
  check_cublas(cublasLtMatmulPreferenceCreate(&preference), "state a preference");
  Handle<cublasLtMatmulPreferenceOpaque_t> owner(preference);
  auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check_cublas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)),
                 "state a preference");
  };
  // Parts of a sum over K are kept in fp32 and added in order.
  const uint32_t reductions =
      CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(Gemm::kWorkspaceBytes));
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.left.alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.right.alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c.alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.d.alignment);
  return owner;
}

}  // namespace

struct Gemm::State {
  Handle<cublasLtContext> handle;
  std::mutex mutex;
  std::map<PlanKey, Plan> plans;

  // `vector`: what the epilogue reads or writes; the heuristic looks at its alignment.
  Plan make_plan(const PlanKey& key, const void* vector) const;
  const Plan& plan(const PlanKey& key, const void* vector);
};

Plan Gemm::State::make_plan(const PlanKey& key, const void* vector) const {
  Plan plan{.operation = operation_of(key),
            .left = layout_of(key.left),
            .right = layout_of(key.right),
            .c = layout_of(key.c),
            .d = layout_of(key.d),
            .algorithm = {}};
  if (vector != nullptr) plan.set_vector(vector);
  cublasLtMatmulHeuristicResult_t result = {};
  int num_results = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle.get(), plan.operation.get(), plan.left.get(), plan.right.get(), plan.c.get(),
      plan.d.get(), preference_of(key).get(), 1, &result, &num_results);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check_cublas(status, "choose a kernel");
  if (num_results > 0 && result.state == CUBLAS_STATUS_SUCCESS) plan.algorithm = result.algo;
  return plan;
}

const Plan& Gemm::State::plan(const PlanKey& key, const void* vector) {
  // More than any model has: lengths that never come back do not fill the memory.
  constexpr size_t kMostPlans = 4096;
  if (const auto found = plans.find(key); found != plans.end()) return found->second;
  if (plans.size() >= kMostPlans) plans.clear();
  return plans.emplace(key, make_plan(key, vector)).first->second;
}

Gemm::Gemm(Device gpu) : state_(std::make_unique<State>()) {
  check_cuda(cudaSetDevice(gpu.index), "use " + device_name(gpu));
  cublasLtHandle_t handle = nullptr;
  check_cublas(cublasLtCreate(&handle), "start on " + device_name(gpu));
  state_->handle.reset(handle);
}

Gemm::~Gemm() = default;

bool Gemm::enqueue(const GemmProduct& product, void* workspace, StreamHandle stream) const {
  const bool adds = product.c_MN.data != nullptr;
  const void* const vector = product.bias_N != nullptr ? product.bias_N : product.a_sums_M;
  if (product.d_MN.column_stride != 1) {
    LONGSHIP_CHECK(vector == nullptr, "a product along its columns with bias or sums");
    return enqueue({.a_MK = product.b_KN.transposed(),
                    .b_KN = product.a_MK.transposed(),
                    .d_MN = product.d_MN.transposed(),
                    .c_MN = product.c_MN.transposed()},
                   workspace, stream);
  }
  const Matrix& c_MN = adds ? product.c_MN : product.d_MN;
  LONGSHIP_CHECK(c_MN.column_stride == 1 && c_MN.dtype == product.d_MN.dtype,
                 "a product and what is added to it differ in layout or dtype");
  const PlanKey key{.left = stored_transpose(product.b_KN),
                    .right = stored_transpose(product.a_MK),
                    .c = stored_transpose(c_MN),
                    .d = stored_transpose(product.d_MN),
                    .epilogue = product.bias_N != nullptr     ? CUBLASLT_EPILOGUE_BIAS
                                : product.a_sums_M != nullptr ? CUBLASLT_EPILOGUE_BGRADB
                                                              : CUBLASLT_EPILOGUE_DEFAULT,
                    .vector_alignment = vector == nullptr ? 0 : alignment_of(vector)};
  const std::lock_guard lock(state_->mutex);
  const Plan& plan = state_->plan(key, vector);
  if (!plan.algorithm) return false;
  if (vector != nullptr) plan.set_vector(vector);
  const float alpha = 1, beta = adds ? 1 : 0;
  check_cublas(
      cublasLtMatmul(state_->handle.get(), plan.operation.get(), &alpha, product.b_KN.data,
                     plan.left.get(), product.a_MK.data, plan.right.get(), &beta, c_MN.data,
                     plan.c.get(), product.d_MN.data, plan.d.get(), &*plan.algorithm, workspace,
                     static_cast<size_t>(kWorkspaceBytes), stream),
      fmt::format("multiply [{}, {}] by [{}, {}]", product.a_MK.rows, product.a_MK.columns,
                  product.b_KN.rows, product.b_KN.columns));
  return true;
}

}  // namespace longship
