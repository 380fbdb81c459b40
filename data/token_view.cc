#include "data/token_view.h"

namespace longship {
namespace {

template <class T>
int64_t max_of(const T* ids, int64_t count) {
  T largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, ids[i]);
  return largest;
}

}  // namespace

int64_t TokenView::max() const {
  if (size_ == 0) return -1;
  return token_bytes_ == 2 ? max_of(narrow(), size_) : max_of(wide(), size_);
}

void TokenView::copy_to(int32_t* out, int64_t begin, int64_t length) const {
  if (token_bytes_ == 2)
    std::copy_n(narrow() + begin, length, out);
  else
    std::copy_n(wide() + begin, length, out);
}

}  // namespace longship
