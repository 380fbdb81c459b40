#include "attention/linear/delta_chunk.h"

namespace longship {
namespace {

// Columns of the widest state: that of values, or of M.
int64_t widest(const DeltaProblem& problem) {
  return std::max(problem.key_size, problem.value_size);
}

}  // namespace

template <class A>
int64_t DeltaChunk<A>::workspace_size(const DeltaProblem& problem) {
  constexpr int64_t C = DeltaProblem::kChunkSize;
  return 2 * Matrix::size(C, problem.key_size) + Matrix::size(C, widest(problem)) + C +
         ChunkDecay<A>::workspace_size(problem.key_size, C);
}

template <class A>
DeltaChunk<A>::DeltaChunk(const DeltaProblem& problem, A* workspace)
    : problem_(problem),
      k_(workspace),
      decayed_(k_ + Matrix::size(DeltaProblem::kChunkSize, problem.key_size)),
      wide_(decayed_ + Matrix::size(DeltaProblem::kChunkSize, problem.key_size)),
      beta_(wide_ + Matrix::size(DeltaProblem::kChunkSize, widest(problem))),
      decay_(problem.input.gate, problem.num_heads, problem.key_size, DeltaProblem::kChunkSize,
             beta_ + DeltaProblem::kChunkSize) {}

template <class A>
void DeltaChunk<A>::begin(int64_t chunk, int64_t head) {
  chunk_ = problem_.grid.chunk(chunk);
  head_ = head;
  decay_.begin(chunk_, head);
  load_rows(rows(problem_.input.k_TGK), A{1}, k());
  const A* beta = problem_.input.beta_TH.data<A>() + chunk_.slot * problem_.num_heads + head;
  for (int64_t r = 0; r < length(); ++r) beta_[r] = beta[r * problem_.num_heads];
}

template <class A>
TensorRows DeltaChunk<A>::rows(const Tensor& x) const {
  const int64_t heads = x.dim(1), size = x.rank() == 3 ? x.dim(2) : 1;
  const int64_t head = heads == problem_.num_heads ? head_ : problem_.key_head(head_);
  return {x, (chunk_.slot * heads + head) * size, heads * size};
}

template <class A>
PanelMatrix<A> DeltaChunk<A>::keys_from_start() const {
  decayed().copy_from(k());
  decay_.decay_from_start(decayed());
  return decayed();
}

template <class A>
PanelMatrix<A> DeltaChunk<A>::keys_to_end() const {
  decayed().copy_from(k());
  decay_.decay_to_end(decayed());
  return decayed();
}

template <class A>
PanelMatrix<A> DeltaChunk<A>::queries_from_start() const {
  load_q(decayed());
  decay_.decay_from_start(decayed());
  return decayed();
}

template <class A>
void DeltaChunk<A>::write_values(const Matrix& inverse, const Matrix& state, bool with_values,
                                 const Matrix& values) const {
  const Matrix errors(wide_, length(), state.columns);
  if (with_values) load_rows(rows(problem_.input.v_THV), A{1}, errors);
  multiply(keys_from_start(), state, errors, {.scale = A{-1}, .add = with_values});
  errors.scale_rows(beta_);
  multiply(inverse, errors, values, {.add = false, .lower_x = true});
}

template <class A>
void DeltaChunk<A>::advance(const Matrix& values, const Matrix& state) const {
  decay_.decay_state(state);
  multiply_transposed(keys_to_end(), values, state);
}

template <class A>
void DeltaChunk<A>::read_outputs(const Matrix& scores, const Matrix& values, const Matrix& state,
                                 const Matrix& out) const {
  multiply(queries_from_start(), state, out, {.add = false});
  multiply(scores, values, out, {.lower_x = true});
}

template <class A>
void DeltaChunk<A>::value_gradients(const Matrix& inverse, const Matrix& scores, const Matrix* d_o,
                                    const Matrix& dstate, const Matrix& x) const {
  const Matrix dvalues(wide_, length(), dstate.columns);
  multiply(keys_to_end(), dstate, dvalues, {.add = false});
  if (d_o) multiply_transposed(scores, *d_o, dvalues, {.lower_x = true});
  multiply_transposed(inverse, dvalues, x, {.add = false, .lower_x = true});
}

template <class A>
void DeltaChunk<A>::retreat(const Matrix& x, const Matrix* d_o, const Matrix& dstate) const {
  const Matrix dv(wide_, length(), dstate.columns);
  dv.copy_from(x);
  dv.scale_rows(beta_);
  decay_.decay_state(dstate);
  multiply_transposed(keys_from_start(), dv, dstate, {.scale = A{-1}});
  if (d_o) multiply_transposed(queries_from_start(), *d_o, dstate);
}

template class DeltaChunk<float>;
template class DeltaChunk<double>;

}  // namespace longship
