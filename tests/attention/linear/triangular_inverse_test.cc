#include "attention/linear/triangular_inverse.h"

#include <gtest/gtest.h>

#include <limits>

#include "runtime/context.h"
#include "runtime/random.h"

namespace longship {
namespace {

template <class A>
void check_inverse(int64_t n, double scale, double bound) {
  using Matrix = PanelMatrix<A>;
  Context ctx;
  const Tensor buffer = ctx.empty({3 * Matrix::size(n, n)}, DTypeOf<A>::value);
  A* const data = buffer.data<A>();
  const Matrix strict(data, n, n), inverse(data + Matrix::size(n, n), n, n),
      product(data + 2 * Matrix::size(n, n), n, n);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < Matrix::size(1, n); ++c)
      strict.at(r, c) = c < r ? static_cast<A>(scale * normal(1, static_cast<uint64_t>(r),
                                                              static_cast<uint64_t>(c)))
                              : std::numeric_limits<A>::quiet_NaN();
  invert_unit_lower(strict, inverse);

  strict.for_each_row([&](int64_t p, int64_t r, A* row) {
    for (int64_t i = 0; i < Matrix::W; ++i) {
      const int64_t c = p * Matrix::W + i;
      if (c >= r) row[i] = c == r ? A{1} : A{0};
    }
  });
  multiply(strict, inverse, product, {.add = false});
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < n; ++c) {
      EXPECT_NEAR(product.at(r, c), r == c ? 1.0 : 0.0, bound) << n << ": " << r << ", " << c;
      if (c > r) {
        EXPECT_EQ(inverse.at(r, c), A{0}) << n << ": " << r << ", " << c;
      }
    }
}

TEST(TriangularInverse, TimesTheMatrixIsTheIdentity) {
  for (int64_t n : {1, 2, 15, 16, 17, 33, 63, 64}) {
    check_inverse<double>(n, 0.3, 1e-12);
    check_inverse<float>(n, 0.1, 2e-6);
  }
}

}  // namespace
}  // namespace longship
