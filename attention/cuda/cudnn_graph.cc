#include "attention/cuda/cudnn_graph.h"

#include <cudnn_frontend.h>

#include <string>
#include <unordered_map>

#include "runtime/error.h"

namespace longship {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Tensor_attributes;
using TensorPtr = std::shared_ptr<Tensor_attributes>;

// 9.14 computes windows wrongly, older ones ragged batches.
constexpr size_t kOldestVersion = 91800;

enum Uid : int64_t {
  kQ = 1,
  kK,
  kV,
  kO,
  kLse,
  kDo,
  kDq,
  kDk,
  kDv,
  kQLengths,
  kKLengths,
  kQOffsets,
  kKOffsets,
  kVOffsets,
  kOOffsets,
  kLseOffsets
};

std::string describe(const CudnnGraphKey& key) {
  auto bound = [](int64_t value) {
    return value == CudnnGraphKey::kNoBound ? std::string("none") : std::to_string(value);
  };
  return fmt::format(
      "{}attention {} of {} {} x {} rows, {} query and {} key/value heads of {} and {} elements, "
      "bounds {} left and {} right from the {} corner",
      key.deterministic ? "deterministic " : "", key.backward ? "backward" : "forward", key.batch,
      key.max_q, key.max_k, key.num_heads, key.num_kv_heads, key.head_size, key.value_size,
      bound(key.left), bound(key.right), key.bottom_right ? "bottom right" : "top left");
}

// The tensors of a graph under construction.
class Builder {
 public:
  explicit Builder(const CudnnGraphKey& key)
      : key_(key), graph_(std::make_shared<fe::graph::Graph>()) {
    graph_->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    if (!key.ragged) return;
    q_lengths_ = integers(kQLengths, key.batch, fe::DataType_t::INT32);
    k_lengths_ = integers(kKLengths, key.batch, fe::DataType_t::INT32);
    q_offsets_ = offsets(kQOffsets);
    k_offsets_ = offsets(kKOffsets);
    v_offsets_ = offsets(kVOffsets);
    o_offsets_ = offsets(kOOffsets);
    lse_offsets_ = offsets(kLseOffsets);
  }

  void forward() {
    auto options = fe::graph::SDPA_attributes().set_generate_stats(true);
    set_mask(options);
    auto [o, lse] =
        graph_->sdpa(graph_->tensor(q(kQ)), graph_->tensor(k(kK)), graph_->tensor(v(kV)), options);
    set_output(o, this->o(kO));
    lse->set_data_type(fe::DataType_t::FLOAT);
    set_output(lse, lse_by_tokens());
  }

  void backward() {
    auto options = fe::graph::SDPA_backward_attributes();
    set_mask(options);
    options.set_deterministic_algorithm(key_.deterministic);
    if (key_.ragged)
      options.set_max_total_seq_len_q(key_.total_q).set_max_total_seq_len_kv(key_.total_k);
    auto [dq, dk, dv] = graph_->sdpa_backward(
        graph_->tensor(q(kQ)), graph_->tensor(k(kK)), graph_->tensor(v(kV)), graph_->tensor(o(kO)),
        graph_->tensor(o(kDo)), graph_->tensor(key_.ragged ? lse_by_tokens() : lse_by_heads()),
        options);
    set_output(dq, q(kDq));
    set_output(dk, k(kDk));
    set_output(dv, v(kDv));
  }

  const std::shared_ptr<fe::graph::Graph>& graph() const { return graph_; }

 private:
  TensorPtr integers(Uid uid, int64_t count, fe::DataType_t type) {
    return graph_->tensor(Tensor_attributes()
                              .set_uid(uid)
                              .set_dim({count, 1, 1, 1})
                              .set_stride({1, 1, 1, 1})
                              .set_data_type(type));
  }
  TensorPtr offsets(Uid uid) { return integers(uid, key_.batch + 1, fe::DataType_t::INT64); }

  // Rows of `row_heads` heads, of which `heads` are used.
  Tensor_attributes rows(Uid uid, int64_t heads, int64_t num_rows, int64_t row_heads, int64_t size,
                         const TensorPtr& ragged_offsets) const {
    const int64_t row = row_heads * size;
    Tensor_attributes tensor;
    tensor.set_uid(uid)
        .set_dim({key_.batch, heads, num_rows, size})
        .set_stride({num_rows * row, size, row, 1});
    if (ragged_offsets != nullptr) tensor.set_ragged_offset(ragged_offsets);
    return tensor;
  }
  Tensor_attributes q(Uid uid) const {
    return rows(uid, key_.num_heads, key_.max_q, key_.row_heads, key_.head_size, q_offsets_);
  }
  Tensor_attributes k(Uid uid) const {
    return rows(uid, key_.num_kv_heads, key_.max_k, key_.row_kv_heads, key_.head_size, k_offsets_);
  }
  Tensor_attributes v(Uid uid) const {
    return rows(uid, key_.num_kv_heads, key_.max_k, key_.row_kv_heads, key_.value_size, v_offsets_);
  }
  Tensor_attributes o(Uid uid) const {
    return rows(uid, key_.num_heads, key_.max_q, key_.row_heads, key_.value_size, o_offsets_);
  }
  Tensor_attributes lse_by_tokens() const {
    return rows(kLse, key_.num_heads, key_.max_q, key_.row_heads, 1, lse_offsets_)
        .set_data_type(fe::DataType_t::FLOAT);
  }
  Tensor_attributes lse_by_heads() const {
    return Tensor_attributes()
        .set_uid(kLse)
        .set_dim({1, key_.num_heads, key_.max_q, 1})
        .set_stride({key_.num_heads * key_.max_q, key_.max_q, 1, 1})
        .set_data_type(fe::DataType_t::FLOAT);
  }

  static void set_output(const TensorPtr& output, Tensor_attributes layout) {
    output->set_output(true)
        .set_uid(layout.get_uid())
        .set_dim(layout.get_dim())
        .set_stride(layout.get_stride());
    if (layout.get_ragged_offset() != nullptr)
      output->set_ragged_offset(layout.get_ragged_offset());
  }

  template <class Attributes>
  void set_mask(Attributes& options) const {
    options.set_attn_scale(key_.scale);
    options.set_diagonal_alignment(key_.bottom_right ? fe::DiagonalAlignment_t::BOTTOM_RIGHT
                                                     : fe::DiagonalAlignment_t::TOP_LEFT);
    if (key_.left != CudnnGraphKey::kNoBound)
      options.set_diagonal_band_left_bound(static_cast<int>(key_.left));
    if (key_.right != CudnnGraphKey::kNoBound)
      options.set_diagonal_band_right_bound(static_cast<int>(key_.right));
    if (key_.ragged)
      options.set_padding_mask(true).set_seq_len_q(q_lengths_).set_seq_len_kv(k_lengths_);
  }

  const CudnnGraphKey& key_;
  std::shared_ptr<fe::graph::Graph> graph_;
  TensorPtr q_lengths_, k_lengths_, q_offsets_, k_offsets_, v_offsets_, o_offsets_, lse_offsets_;
};

}  // namespace

CudnnHandle::CudnnHandle(StreamHandle stream) : stream_(stream) {
  if (const size_t version = cudnnGetVersion(); version < kOldestVersion)
    throw Error(ErrorCode::kConfig, {.what = "cuDNN is too old for attention",
                                     .expected = "cuDNN 9.18 or newer",
                                     .found = fmt::format("version {}", version),
                                     .next = "install a newer cuDNN (PyPI: nvidia-cudnn-cu13)"});
  cudnnStatus_t status = cudnnCreate(&handle_);
  if (status == CUDNN_STATUS_SUCCESS) status = cudnnSetStream(handle_, stream);
  if (status != CUDNN_STATUS_SUCCESS) {
    if (handle_ != nullptr) cudnnDestroy(handle_);
    throw Error(ErrorCode::kConfig,
                {.what = "cuDNN cannot start",
                 .found = cudnnGetErrorString(status),
                 .next = "look at the GPU's free memory and at the versions of driver and cuDNN"});
  }
}

CudnnHandle::~CudnnHandle() {
  cudnnDestroy(handle_);
}

struct CudnnGraph::State {
  CudnnGraphKey key;
  std::shared_ptr<fe::graph::Graph> graph;
  int64_t workspace_bytes = 0;
};

CudnnGraph::CudnnGraph(const CudnnHandle& handle, const CudnnGraphKey& key)
    : state_(std::make_unique<State>()) {
  state_->key = key;
  Builder builder(state_->key);
  key.backward ? builder.backward() : builder.forward();
  state_->graph = builder.graph();
  fe::graph::Graph& graph = *state_->graph;
  auto check = [&](const fe::error_t& error) {
    if (error.is_bad())
      throw Error(ErrorCode::kConfig, {.what = "cuDNN has no kernel for " + describe(key),
                                       .found = error.err_msg,
                                       .next = "choose other head sizes, or a newer cuDNN"});
  };
  check(graph.validate());
  check(graph.build_operation_graph(handle.get()));
  check(graph.create_execution_plans({fe::HeurMode_t::A}));
  check(graph.check_support(handle.get()));
  check(graph.build_plans(handle.get()));
  check(graph.get_workspace_size(state_->workspace_bytes));
}

CudnnGraph::~CudnnGraph() = default;
CudnnGraph::CudnnGraph(CudnnGraph&&) noexcept = default;
CudnnGraph& CudnnGraph::operator=(CudnnGraph&&) noexcept = default;

int64_t CudnnGraph::workspace_bytes() const {
  return state_->workspace_bytes;
}

void CudnnGraph::execute(const CudnnHandle& handle, const CudnnPointers& pointers,
                         void* workspace) const {
  std::unordered_map<int64_t, void*> tensors = {
      {kQ, pointers.q}, {kK, pointers.k}, {kV, pointers.v}, {kO, pointers.o}, {kLse, pointers.lse}};
  if (state_->key.backward)
    tensors.insert(
        {{kDo, pointers.d_o}, {kDq, pointers.dq}, {kDk, pointers.dk}, {kDv, pointers.dv}});
  if (state_->key.ragged) {
    const CudnnRagged& ragged = pointers.ragged;
    auto table = [](const auto* values) {
      return const_cast<void*>(static_cast<const void*>(values));
    };
    tensors.insert({{kQLengths, table(ragged.q_lengths)},
                    {kKLengths, table(ragged.k_lengths)},
                    {kQOffsets, table(ragged.q_offsets)},
                    {kKOffsets, table(ragged.k_offsets)},
                    {kVOffsets, table(ragged.v_offsets)},
                    {kOOffsets, table(ragged.o_offsets)},
                    {kLseOffsets, table(ragged.lse_offsets)}});
  }
  const fe::error_t error = state_->graph->execute(handle.get(), tensors, workspace);
  if (error.is_bad())
    throw Error(ErrorCode::kInternal, {.what = "cuDNN failed to enqueue " + describe(state_->key),
                                       .found = error.err_msg});
}

}  // namespace longship
