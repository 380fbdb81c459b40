#include "parallel/message_rows.h"

#include <cstring>

namespace longship {

MessageRows MessageRows::of(const Tensor& tensor) {
  if (tensor.is_contiguous()) return {1, tensor.num_bytes(), tensor.num_bytes()};
  return {tensor.dim(0), tensor.num_bytes() / tensor.dim(0),
          tensor.strides()[0] * dtype_size(tensor.dtype())};
}

bool has_contiguous_rows(const Tensor& tensor) {
  if (tensor.is_contiguous()) return true;
  return tensor.dim(0) > 0 && tensor.slice(0, 0, 1).is_contiguous() &&
         tensor.strides()[0] >= tensor.numel() / tensor.dim(0);
}

bool RowCopy::fits(const MessageRows& to, const MessageRows& from) {
  return to.num_bytes() == from.num_bytes() &&
         (to.num_rows == 1 || from.num_rows == 1 || to.num_rows == from.num_rows);
}

RowCopy RowCopy::between(const MessageRows& to, const MessageRows& from) {
  const MessageRows& cut = to.num_rows > 1 ? to : from;  // a side of one run is cut as the other
  return {cut.num_rows, cut.row_bytes, to.num_rows > 1 ? to.pitch : cut.row_bytes,
          from.num_rows > 1 ? from.pitch : cut.row_bytes};
}

void copy_rows(std::byte* to, const std::byte* from, const RowCopy& rows) {
  if (rows.row_bytes == 0) return;
  for (int64_t row = 0; row < rows.num_rows; ++row)
    std::memcpy(to + row * rows.to_pitch, from + row * rows.from_pitch,
                static_cast<size_t>(rows.row_bytes));
}

}  // namespace longship
