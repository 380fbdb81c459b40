// "ulysses": DeepSpeed-Ulysses (Jacobs et al. 2023, arXiv 2309.14509) for any number of heads.
//
// An all-to-all turns "my tokens, all heads" into "all tokens, my heads", attention runs locally on
// whole heads, and the reverse all-to-all brings the output home. Query heads are dealt in runs as
// equal as possible; a rank is sent each KV head that its query heads use, once, although other
// ranks may be sent it too. Tokens arrive in batch order: no layout costs more than another.
//
// Sent by rank r, with s_p tokens, h_p query heads and k_p KV heads on rank p, e bytes an element:
//   "ulysses.fwd"  sum over p != r of  s_r (h_p D + k_p (D + V)) e    q, k, v
//                                    + s_p h_r V e                    o
//   "ulysses.bwd"  sum over p != r of  s_r h_p V e                    do
//                                    + s_p (h_r D e + k_r (D + V) g)  dq, dk, dv
// where g = e, or the accumulator's size (4; 8 in fp64) when some KV head is used by several ranks:
// its gradients are then added in ascending rank order before they are rounded.
#include "parallel/head_schedule.h"
#include "parallel/softmax_local.h"

namespace longship {
namespace {

class Ulysses final : public HeadSchedule {
 public:
  Ulysses(const Group& sp, const SoftmaxBlock& kernel, const UlyssesOptions& options)
      : HeadSchedule("ulysses", sp, options.max_head_groups),
        grid_{sp, make_local_passes("ulysses", kernel)} {}

 private:
  const HeadGrid& grid(const AttentionShape&) const override { return grid_; }

  HeadGrid grid_;
};

}  // namespace

std::unique_ptr<SoftmaxSchedule> make_ulysses(Group sp, const SoftmaxBlock& kernel,
                                              const UlyssesOptions& options) {
  return std::make_unique<Ulysses>(sp, kernel, options);
}

}  // namespace longship
