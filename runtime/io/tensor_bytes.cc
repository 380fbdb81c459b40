#include "runtime/io/tensor_bytes.h"

#include <algorithm>

namespace longship {
namespace {

constexpr int64_t kPieceBytes = int64_t{64} << 20;

std::span<std::byte> host_bytes(const Tensor& packed) {
  return {packed.raw(), static_cast<size_t>(packed.num_bytes())};
}

// Calls f(piece, staging) for consecutive pieces of a tensor on a GPU; staging is host memory of
// the same shape.
template <class F>
void for_each_piece(const Tensor& packed, F&& f) {
  const Tensor flat = packed.reshape({-1});
  const int64_t piece_elements = std::min(kPieceBytes / dtype_size(flat.dtype()), flat.numel());
  const Tensor staging = Tensor::empty(std::make_shared<Memory>(), {piece_elements}, flat.dtype());
  for (int64_t begin = 0; begin < flat.numel(); begin += piece_elements) {
    const int64_t length = std::min(piece_elements, flat.numel() - begin);
    f(flat.slice(0, begin, length), staging.slice(0, 0, length));
  }
}

}  // namespace

void read_tensor_bytes(const Tensor& tensor,
                       const std::function<void(std::span<const std::byte>)>& f) {
  const Tensor packed = tensor.contiguous();
  if (packed.device().kind == DeviceKind::kCpu) return f(host_bytes(packed));
  for_each_piece(packed, [&](const Tensor& piece, const Tensor& staging) {
    staging.copy_from(piece);
    f(host_bytes(staging));
  });
}

void fill_tensor_bytes(const Tensor& tensor,
                       const std::function<void(int64_t, std::span<std::byte>)>& f) {
  LONGSHIP_CHECK(tensor.is_contiguous(), "bytes for a tensor with gaps");
  if (tensor.device().kind == DeviceKind::kCpu) return f(0, host_bytes(tensor));
  int64_t offset = 0;
  for_each_piece(tensor, [&](const Tensor& piece, const Tensor& staging) {
    f(offset, host_bytes(staging));
    piece.copy_from(staging);
    offset += piece.num_bytes();
  });
}

}  // namespace longship
