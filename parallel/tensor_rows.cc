#include "parallel/tensor_rows.h"

#include "runtime/ops/accumulate.h"

namespace longship {
namespace {

void add(std::vector<P2P>& batch, P2P::Kind kind, int peer, const TensorRows& tensors) {
  for (const Tensor& tensor : tensors)
    if (tensor.dim(0) > 0) batch.push_back({kind, peer, tensor});
}

}  // namespace

TensorRows slice(const TensorRows& tensors, RowRange rows) {
  TensorRows parts;
  for (const Tensor& tensor : tensors) parts.push_back(rows_of(tensor, rows));
  return parts;
}

TensorRows empty_like(const Context& ctx, const TensorRows& tensors, int64_t num_rows) {
  std::vector<DType> dtypes;
  for (const Tensor& tensor : tensors) dtypes.push_back(tensor.dtype());
  return empty_like(ctx, tensors, num_rows, dtypes);
}

TensorRows empty_like(const Context& ctx, const TensorRows& tensors, int64_t num_rows,
                      std::span<const DType> dtypes) {
  LONGSHIP_CHECK(dtypes.size() >= tensors.size(), "{} dtypes for {} tensors", dtypes.size(),
                 tensors.size());
  TensorRows room;
  for (size_t i = 0; i < tensors.size(); ++i) {
    Shape shape = tensors[i].shape();
    shape[0] = num_rows;
    room.push_back(ctx.empty(std::move(shape), dtypes[i]));
  }
  return room;
}

void add_send(std::vector<P2P>& batch, int peer, const TensorRows& tensors) {
  add(batch, P2P::Kind::kSend, peer, tensors);
}

void add_receive(std::vector<P2P>& batch, int peer, const TensorRows& tensors) {
  add(batch, P2P::Kind::kReceive, peer, tensors);
}

void accumulate(const Context& ctx, const TensorRows& into, const TensorRows& from) {
  LONGSHIP_CHECK(into.size() == from.size(), "{} sums and {} terms", into.size(), from.size());
  for (size_t i = 0; i < into.size(); ++i) accumulate(ctx, into[i], from[i]);
}

}  // namespace longship
