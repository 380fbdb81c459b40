// Collectives as differentiable ops. Every op is linear, y = A x, over the values of all ranks.
//
// Convention: each rank's copy of an output is a variable of its own, and what is differentiated is
// the sum over ranks of every rank's scalar. So the backward applies the transpose A^T over all
// ranks: <grad_y, A x> = <A^T grad_y, x>, both summed over ranks. Where every rank computes the
// same loss from an all-reduced value, that loss counts `size` times: divide it by the size.
//
// All ranks must call the op, and either all or none of them may need its gradient; the backward is
// collective too. Gradients that meet are added in rank order, in fp32 (fp64 for fp64). x is
// [rows, ...] in a floating dtype; its rows need not be equal in number on all ranks, and may be 0.
// Bytes are counted under `label` and, in the backward, `label` + ".grad".
#pragma once

#include <string>
#include <vector>

#include "parallel/group.h"
#include "runtime/autograd/tape.h"

namespace longship {

// y: the rows that every rank has for this one, in rank order; send_rows[r] rows of x go to rank r,
// receive_rows[r] come from it. Adjoint: the all-to-all back.
Variable all_to_all(Context& ctx, const Group& group, const std::string& label, const Variable& x,
                    std::vector<int64_t> send_rows, std::vector<int64_t> receive_rows);

// y: the rows of all ranks, rows[r] from rank r. Adjoint: reduce_scatter.
Variable all_gather(Context& ctx, const Group& group, const std::string& label, const Variable& x,
                    std::vector<int64_t> rows);

// y: this rank's rows[rank] rows of the sum of x over ranks. Adjoint: all_gather.
Variable reduce_scatter(Context& ctx, const Group& group, const std::string& label,
                        const Variable& x, std::vector<int64_t> rows);

// y: the sum of x over ranks. Adjoint: all_reduce.
Variable all_reduce(Context& ctx, const Group& group, const std::string& label, const Variable& x);

// y: the root's x, which has the same shape on every rank. Adjoint: the sum goes to the root; the
// others' x gets zeros.
Variable broadcast(Context& ctx, const Group& group, const std::string& label, const Variable& x,
                   int root);

// Rows [begin, begin + length) for, or from, a rank.
struct RowTransfer {
  int peer = 0;
  int64_t begin = 0;
  int64_t length = 0;
};

struct RowExchange {
  std::vector<RowTransfer> send;     // rows of x; may overlap
  std::vector<RowTransfer> receive;  // rows of y; together they cover y once
};

// y: rows of neighbours, such as halos, as `plan` says. Messages between one pair match in the
// order in which they are listed. Adjoint: the exchange back, with the gradients of rows that were
// sent more than once added in the order of plan.send; rows that were not sent get zeros.
Variable exchange_rows(Context& ctx, const Group& group, const std::string& label,
                       const Variable& x, RowExchange plan);

struct RowShift {
  int distance = 1;
  bool periodic = false;     // ranks are a ring
  int64_t receive_rows = 0;  // of the x that comes here
};

// y: the x of rank - distance. Where ranks are no ring, a rank without such a neighbour passes
// receive_rows 0 and gets no rows. Adjoint: the shift by -distance.
Variable shift(Context& ctx, const Group& group, const std::string& label, const Variable& x,
               const RowShift& by);

}  // namespace longship
