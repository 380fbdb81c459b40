// How the bytes of a message lie in memory: one run, or rows apart from each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/tensor.h"

namespace longship {

struct MessageRows {
  int64_t num_rows = 1;
  int64_t row_bytes = 0;
  int64_t pitch = 0;  // bytes from the beginning of a row to that of the next

  // Of a tensor that is contiguous behind dim 0; one row where it is contiguous altogether.
  static MessageRows of(const Tensor& tensor);
  int64_t num_bytes() const { return num_rows * row_bytes; }
};

// Whether everything behind dim 0 is contiguous and rows do not overlap.
bool has_contiguous_rows(const Tensor& tensor);

// How a message is copied: rows of one length, whose pitch may differ between the two sides.
struct RowCopy {
  int64_t num_rows = 1;
  int64_t row_bytes = 0;
  int64_t to_pitch = 0;
  int64_t from_pitch = 0;

  // Equal bytes in all; where the rows of both sides lie apart, equal rows too.
  static bool fits(const MessageRows& to, const MessageRows& from);
  static RowCopy between(const MessageRows& to, const MessageRows& from);  // that fit
};

// In memory of the host.
void copy_rows(std::byte* to, const std::byte* from, const RowCopy& rows);

}  // namespace longship
