// TapRows: where the rows are that a short convolution reads for each local row: of the segment
// itself, of its halo, or none beyond the border of the document.
#pragma once

#include <algorithm>
#include <span>

#include "parallel/row_halo.h"

namespace longship {

// Row t and the `num_taps` - 1 rows before it (HaloSide::kBefore) or behind it. T is the type of x
// and of the halo.
template <class T>
class TapRows {
 public:
  // x [T, C] and halo [halo.num_rows(), C] are contiguous; zero_C stands for rows that do not
  // exist. Segments and tensors outlive this.
  TapRows(std::span<const Segment> segments, const RowHalo& halo, int64_t num_taps,
          const Tensor& x_TC, const Tensor& halo_RC, const Tensor& zero_C)
      : segments_(segments),
        halo_(halo),
        num_taps_(num_taps),
        num_channels_(x_TC.dim(1)),
        x_(x_TC.data<T>()),
        halo_rows_(halo_RC.data<T>()),
        zero_(zero_C.data<T>()) {}

  int64_t num_taps() const { return num_taps_; }
  int64_t num_channels() const { return num_channels_; }

  // rows[i num_taps + d] = the row at distance d from row begin + i.
  void find(int64_t begin, int64_t end, const T** rows) const {
    auto segment = std::upper_bound(segments_.begin(), segments_.end(), begin,
                                    [](int64_t row, const Segment& s) { return row < s.slot; });
    if (segment != segments_.begin()) --segment;
    for (int64_t row = begin; row < end; ++row, rows += num_taps_) {
      while (row >= segment->slot + segment->length) ++segment;
      const bool before = halo_.side() == HaloSide::kBefore;
      const RowRange beyond = halo_.rows(segment - segments_.begin());
      const int64_t own = before ? row - segment->slot : segment->slot + segment->length - 1 - row;
      for (int64_t d = 0; d < num_taps_; ++d) {
        const int64_t outside = d - own;  // > 0: how far beyond the segment
        if (outside <= 0)
          rows[d] = x_ + (before ? row - d : row + d) * num_channels_;
        else if (outside <= beyond.count)
          rows[d] = halo_rows_ +
                    (before ? beyond.begin + beyond.count - outside : beyond.begin + outside - 1) *
                        num_channels_;
        else
          rows[d] = zero_;
      }
    }
  }

 private:
  std::span<const Segment> segments_;
  const RowHalo& halo_;
  int64_t num_taps_, num_channels_;
  const T* x_;
  const T* halo_rows_;
  const T* zero_;
};

}  // namespace longship
