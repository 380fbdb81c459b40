#include "attention/linear/linear_problem.h"

#include "attention/linear/chunk_decay.h"

namespace longship {

LinearProblem::LinearProblem(const LinearInput& input, std::span<const Segment> segments,
                             std::span<const int64_t> cut, WriteRule rule)
    : input(input),
      segments(segments.begin(), segments.end()),
      cut(cut.begin(), cut.end()),
      grid(segments, kChunkSize),
      state_row_(segments.size(), -1) {
  const Tensor &q = input.q_TGK, &v = input.v_THV, &gate = input.gate;
  LONGSHIP_CHECK(q.rank() == 3 && v.rank() == 3 && q.dim(1) > 0 && v.dim(1) % q.dim(1) == 0,
                 "q {}, v {}", shape_string(q.shape()), shape_string(v.shape()));
  num_tokens = q.dim(0);
  num_key_heads = q.dim(1);
  num_heads = v.dim(1);
  key_size = q.dim(2);
  value_size = v.dim(2);
  sums = accumulator_dtype(q.dtype());
  check_tensor("q", q, q.shape(), q.dtype());
  check_tensor("k", input.k_TGK, q.shape(), q.dtype());
  check_tensor("v", v, {num_tokens, num_heads, value_size}, q.dtype());
  if (rule == WriteRule::kDelta)
    check_tensor("beta", input.beta_TH, {num_tokens, num_heads}, sums);
  else
    LONGSHIP_CHECK(!input.beta_TH.defined(), "beta {} without the delta rule",
                   shape_string(input.beta_TH.shape()));
  switch (gate_kind(gate)) {
    case GateKind::kNone:
      break;
    case GateKind::kConstant:
      check_tensor("gate", gate, {num_heads}, sums);
      break;
    case GateKind::kScalar:
      check_tensor("gate", gate, {num_tokens, num_heads}, sums);
      break;
    case GateKind::kVector:
      check_tensor("gate", gate, {num_tokens, num_heads, key_size}, sums);
      break;
  }
  int64_t covered = 0;
  for (const Segment& segment : segments) {
    LONGSHIP_CHECK(segment.slot >= 0 && segment.slot + segment.length <= num_tokens,
                   "segment of {} tokens at row {} of {}", segment.length, segment.slot,
                   num_tokens);
    covered += segment.length;
  }
  LONGSHIP_CHECK(covered == num_tokens, "segments of {} tokens for {} rows", covered, num_tokens);
  for (size_t row = 0; row < cut.size(); ++row) {
    LONGSHIP_CHECK(
        cut[row] >= 0 && cut[row] < num_segments() && (row == 0 || cut[row] > cut[row - 1]),
        "cut segment {} of {}", cut[row], num_segments());
    state_row_[static_cast<size_t>(cut[row])] = static_cast<int64_t>(row);
  }
}

void LinearProblem::check_tensor(const char* name, const Tensor& tensor, const Shape& shape,
                                 DType dtype) {
  LONGSHIP_CHECK(tensor.defined() && tensor.shape() == shape && tensor.dtype() == dtype &&
                     tensor.is_contiguous(),
                 "{} must be contiguous {} {}", name, dtype_name(dtype), shape_string(shape));
}

}  // namespace longship
