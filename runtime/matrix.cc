#include "runtime/matrix.h"

#include <algorithm>

namespace longship {

Matrix matrix_of(const Tensor& tensor) {
  LONGSHIP_CHECK(tensor.rank() == 2, "a matrix of shape {}", shape_string(tensor.shape()));
  Matrix m{tensor.has_elements() ? tensor.address() : nullptr,
           tensor.dtype(),
           tensor.dim(0),
           tensor.dim(1),
           tensor.strides()[0],
           tensor.strides()[1]};
  if (m.columns <= 1) m.column_stride = 1;
  if (m.rows <= 1) m.row_stride = m.column_stride == 1 ? std::max<int64_t>(m.columns, 1) : 1;
  const bool row_major = m.column_stride == 1 && m.row_stride >= m.columns;
  const bool column_major = m.row_stride == 1 && m.column_stride >= m.rows;
  LONGSHIP_CHECK(m.rows * m.columns == 0 || row_major || column_major,
                 "a matrix of shape {} and strides {}", shape_string(tensor.shape()),
                 shape_string(tensor.strides()));
  return m;
}

}  // namespace longship
