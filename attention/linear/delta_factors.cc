#include "attention/linear/delta_factors.h"

#include "attention/linear/delta_chunk.h"
#include "attention/linear/triangular_inverse.h"
#include "attention/thread_scratch.h"
#include "runtime/parallel_for.h"

namespace longship {

template <class A>
void compute_factors(const Context& ctx, const LinearProblem& problem,
                     const DeltaFactors<A>& factors) {
  constexpr int64_t C = LinearProblem::kChunkSize;
  const ThreadScratch<A> scratch(
      ctx, {DeltaChunk<A>::workspace_size(problem), PanelMatrix<A>::size(C, C)});
  parallel_for_dynamic(ctx, problem.grid.num_chunks() * problem.num_heads, [&](int64_t index) {
    const int64_t chunk = index / problem.num_heads, head = index % problem.num_heads;
    DeltaChunk<A> work(problem, scratch.part(0));
    work.begin(chunk, head);
    if (factors.query_scores) work.query_scores(factors.query_scores->at(chunk, head));
    if (!factors.inverses) return;
    const PanelMatrix<A> scores(scratch.part(1), work.length(), work.length());
    work.decay().scores(work.k(), work.k(), false, scores);
    if (factors.key_scores) factors.key_scores->at(chunk, head).copy_from(scores);
    scores.scale_rows(work.beta());
    invert_unit_lower(scores, factors.inverses->at(chunk, head));
  });
}

template void compute_factors(const Context&, const LinearProblem&, const DeltaFactors<float>&);
template void compute_factors(const Context&, const LinearProblem&, const DeltaFactors<double>&);

}  // namespace longship
