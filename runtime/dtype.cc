#include "runtime/dtype.h"

#include "runtime/error.h"

namespace longship {

void throw_unexpected_dtype(DType dtype) {
  throw_internal("dtype", __FILE__, __LINE__, fmt::format("no code for {}", dtype_name(dtype)));
}

}  // namespace longship
