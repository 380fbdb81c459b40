// "token_ring": TokenRing (Wang et al. 2024, arXiv 2412.20501), with a backward of the same kind.
//
// Keys and values stay. Queries travel from rank r to rank r - 1, so that at step t rank r computes
// the queries of rank r + t over its own keys (all modulo P); partial outputs and their lse go
// straight back to the owner of the queries. The next queries and the last partial output are on
// their way while the present block is computed. The owner merges in the accumulator dtype in the
// order of the steps, whatever arrives first; o is rounded once, at the end. In the backward q, do,
// lse and delta travel the same way, partial dq go straight back and are added in the order of the
// steps, and dk and dv stay where they are.
//
// Queries travel no further than they see keys, and only the rows that do: at step t and beyond,
// u(p, t) rows of rank p, the smallest range that covers all queries that see keys of the ranks
// p - t, .., p - n, where n <= P - 1 is the last step at which any query sees a key. At step t the
// rows w(p, t) = Visibility::between(p, p - t).queries.count are computed and returned. Of one
// document both are nothing for t > p on the contiguous layout, and the half of the rows for t > p
// on the zigzag layout. With e bytes an element and g of the accumulator (4; 8), rank r sends
//   "token_ring.fwd"  sum over t = 1 .. n of  u(r + t - 1, t) H D e  +  w(r + t, t) H (V + 1) g
//   "token_ring.bwd"  sum over t = 1 .. n of  u(r + t - 1, t) H ((D + V) e + 2 g)
//                                           + w(r + t, t) H D g
//
// Memory beside inputs and output, for s the largest shard: in the forward queries of two steps,
// 2 s H D e, and four times an output with its lse, 4 s H (V + 1) g (merged, computed, leaving and
// arriving); in the backward delta, two times q, do, lse and delta, 2 s H ((D + V) e + 2 g), four
// times dq in the accumulator dtype, 4 s H D g, and dk and dv.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "parallel/group.h"
#include "parallel/softmax_block.h"
#include "parallel/tensor_rows.h"
#include "parallel/visible_rows.h"
#include "runtime/context.h"

namespace longship {

// The walk of queries round the ranks, the same for outputs and for gradients.
class TokenRingWalk {
 public:
  // What these queries get from the local keys.
  using Compute = std::function<TensorRows(const TensorRows& queries, const BlockMask& mask)>;
  // Joins what another rank computed for some of the own queries into what there is for them.
  using Join = std::function<void(const TensorRows& home, const TensorRows& arrived)>;

  // `sp` and `plan` must outlive the walk.
  TokenRingWalk(const Group& sp, const SequencePlan& plan, const MaskRule& rule);

  // Steps after the first at which some rank computes something: n above.
  int num_steps() const { return num_steps_; }

  // Sends `own`, what is known of the local queries, round the ranks and computes for others.
  // Returns the joined results for the local queries.
  TensorRows run(Context& ctx, std::string_view label, const TensorRows& own,
                 const Compute& compute, const Join& join) const;

 private:
  struct Parcel {
    RowRange rows;  // of the owner of the queries
    TensorRows tensors;
  };

  int peer(int distance) const;
  RowRange travelling(int owner, int step) const;
  RowRange computed(int owner, int key_rank) const {
    return visibility_.between(owner, key_rank).queries;
  }
  BlockMask mask(int owner) const;
  Parcel pass_on(const Context& ctx, int step, const Parcel& present,
                 std::vector<P2P>& batch) const;
  Parcel give_back(const Context& ctx, int step, const Parcel& leaving, const TensorRows& home,
                   std::vector<P2P>& batch) const;

  const Group& sp_;
  const SequencePlan& plan_;
  MaskRule rule_;
  Visibility visibility_;
  int num_steps_ = 0;
};

}  // namespace longship
