// Matrices as libraries that multiply them are given them.
#pragma once

#include "runtime/tensor.h"

namespace longship {

// A 2-D view with one unit stride; strides in elements.
struct Matrix {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 1;
  int64_t column_stride = 1;

  std::byte* at(int64_t row, int64_t column) const {
    return data + (row * row_stride + column * column_stride) * dtype_size(dtype);
  }
  Matrix block(int64_t row, int64_t num_rows, int64_t column, int64_t num_columns) const {
    return {at(row, column), dtype, num_rows, num_columns, row_stride, column_stride};
  }
  Matrix transposed() const { return {data, dtype, columns, rows, column_stride, row_stride}; }
};

// Throws Error(kInternal) unless the tensor is 2-D with one unit stride, and its rows (or columns)
// do not overlap. The stride of an extent of 1 is made one that a packed matrix would have. `data`
// is null in memory for planning.
Matrix matrix_of(const Tensor& tensor);

}  // namespace longship
