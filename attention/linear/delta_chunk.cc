#include "attention/linear/delta_chunk.h"

namespace longship {
namespace {

// Columns of the widest state: that of values, or of M.
int64_t widest(const LinearProblem& problem) {
  return std::max(problem.key_size, problem.value_size);
}

}  // namespace

template <class A>
int64_t DeltaChunk<A>::workspace_size(const LinearProblem& problem) {
  constexpr int64_t C = LinearProblem::kChunkSize;
  return LinearChunk<A>::workspace_size(problem) + Matrix::size(C, widest(problem)) + C;
}

template <class A>
DeltaChunk<A>::DeltaChunk(const LinearProblem& problem, A* workspace)
    : LinearChunk<A>(problem, workspace),
      wide_(workspace + LinearChunk<A>::workspace_size(problem)),
      beta_(wide_ + Matrix::size(LinearProblem::kChunkSize, widest(problem))) {}

template <class A>
void DeltaChunk<A>::begin(int64_t chunk, int64_t head) {
  LinearChunk<A>::begin(chunk, head);
  const TensorRows beta = this->rows(this->problem_.input.beta_TH);
  for (int64_t r = 0; r < this->length(); ++r)
    beta_[r] = beta.tensor.template data<A>()[beta.first + r * beta.step];
}

template <class A>
void DeltaChunk<A>::write_values(const Matrix& inverse, const Matrix& state, const TensorRows* v,
                                 const Matrix& values) const {
  const Matrix errors(wide_, this->length(), state.columns);
  if (v) load_rows(*v, A{1}, errors);
  multiply(this->keys_from_start(), state, errors, {.scale = A{-1}, .add = v != nullptr},
           this->prefetch_);
  errors.scale_rows(beta_);
  multiply(inverse, errors, values, {.add = false, .lower_x = true});
}

template <class A>
void DeltaChunk<A>::error_gradients(const Matrix& inverse, const Matrix& scores, const Matrix* d_o,
                                    const Matrix& dstate, const Matrix& x) const {
  const Matrix dvalues(wide_, this->length(), dstate.columns);
  this->value_gradients(scores, d_o, dstate, dvalues);
  multiply_transposed(inverse, dvalues, x, {.add = false, .lower_x = true});
}

template <class A>
void DeltaChunk<A>::retreat(const Matrix& x, const Matrix* d_o, const Matrix& dstate) const {
  const Matrix dv(wide_, this->length(), dstate.columns);
  dv.copy_from(x);
  dv.scale_rows(beta_);
  LinearChunk<A>::retreat(d_o, dstate);
  multiply_transposed(this->keys_from_start(), dv, dstate, {.scale = A{-1}}, this->prefetch_);
}

template class DeltaChunk<float>;
template class DeltaChunk<double>;

}  // namespace longship
