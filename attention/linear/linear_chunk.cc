#include "attention/linear/linear_chunk.h"

namespace longship {

template <class A>
int64_t LinearChunk<A>::workspace_size(const LinearProblem& problem) {
  constexpr int64_t C = LinearProblem::kChunkSize;
  return 2 * Matrix::size(C, problem.key_size) + ChunkDecay<A>::workspace_size(problem);
}

template <class A>
LinearChunk<A>::LinearChunk(const LinearProblem& problem, A* workspace)
    : problem_(problem),
      k_(workspace),
      decayed_(k_ + Matrix::size(LinearProblem::kChunkSize, problem.key_size)),
      decay_(problem, decayed_ + Matrix::size(LinearProblem::kChunkSize, problem.key_size)) {}

template <class A>
void LinearChunk<A>::begin(int64_t chunk, int64_t head) {
  chunk_ = problem_.grid.chunk(chunk);
  head_ = head;
  prefetch_.clear();
  decay_.begin(chunk_, head);
  load_rows(rows(problem_.input.k_TGK), A{1}, k());
}

template <class A>
void LinearChunk<A>::fetch_meanwhile(int64_t chunk, std::initializer_list<const Tensor*> tensors) {
  if (chunk < 0 || chunk >= problem_.grid.num_chunks()) return;
  const Chunk& next = problem_.grid.chunk(chunk);
  for (const Tensor* tensor : tensors)
    prefetch_.add(rows_of(next, *tensor), next.length, tensor->dim(2));
}

template <class A>
TensorRows LinearChunk<A>::rows(const Tensor& x) const {
  return rows_of(chunk_, x);
}

template <class A>
TensorRows LinearChunk<A>::rows_of(const Chunk& chunk, const Tensor& x) const {
  const int64_t heads = x.dim(1), size = x.rank() == 3 ? x.dim(2) : 1;
  const int64_t head = heads == problem_.num_heads ? head_ : problem_.key_head(head_);
  return {x, (chunk.slot * heads + head) * size, heads * size};
}

template <class A>
PanelMatrix<A> LinearChunk<A>::keys_from_start() const {
  decayed().copy_from(k());
  decay_.decay_from_start(decayed());
  return decayed();
}

template <class A>
PanelMatrix<A> LinearChunk<A>::keys_to_end() const {
  decayed().copy_from(k());
  decay_.decay_to_end(decayed());
  return decayed();
}

template <class A>
PanelMatrix<A> LinearChunk<A>::queries_from_start() const {
  load_q(decayed());
  decay_.decay_from_start(decayed());
  return decayed();
}

template <class A>
void LinearChunk<A>::query_scores(const Matrix& out) const {
  load_q(decayed());
  decay_.scores(decayed(), k(), true, out);
}

template <class A>
void LinearChunk<A>::read_state(const Matrix& state, const Matrix& out) const {
  multiply(queries_from_start(), state, out, {}, prefetch_);
}

template <class A>
void LinearChunk<A>::advance(const Matrix& values, const Matrix& state) const {
  decay_.decay_state(state);
  multiply_transposed(keys_to_end(), values, state, {}, prefetch_);
}

template <class A>
void LinearChunk<A>::value_gradients(const Matrix& scores, const Matrix* d_o, const Matrix& dstate,
                                     const Matrix& dvalues) const {
  multiply(keys_to_end(), dstate, dvalues, {.add = false}, prefetch_);
  if (d_o) multiply_transposed(scores, *d_o, dvalues, {.lower_x = true});
}

template <class A>
void LinearChunk<A>::retreat(const Matrix* d_o, const Matrix& dstate) const {
  decay_.decay_state(dstate);
  if (d_o) multiply_transposed(queries_from_start(), *d_o, dstate, {}, prefetch_);
}

template class LinearChunk<float>;
template class LinearChunk<double>;

}  // namespace longship
