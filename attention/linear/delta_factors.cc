#include "attention/linear/delta_factors.h"

#include "attention/linear/delta_chunk.h"
#include "attention/linear/triangular_inverse.h"
#include "attention/thread_scratch.h"
#include "runtime/parallel_for.h"

namespace longship {

template <class A>
void compute_inverses(const Context& ctx, const LinearProblem& problem,
                      const ChunkMatrices<A>& inverses, const ChunkMatrices<A>* key_scores) {
  constexpr int64_t C = LinearProblem::kChunkSize;
  const ThreadScratch<A> scratch(
      ctx, {DeltaChunk<A>::workspace_size(problem), PanelMatrix<A>::size(C, C)});
  parallel_for_dynamic(ctx, problem.grid.num_chunks() * problem.num_heads, [&](int64_t index) {
    const int64_t chunk = index / problem.num_heads, head = index % problem.num_heads;
    DeltaChunk<A> work(problem, scratch.part(0));
    work.begin(chunk, head);
    const PanelMatrix<A> scores(scratch.part(1), work.length(), work.length());
    work.decay().scores(work.k(), work.k(), false, scores);
    if (key_scores) key_scores->at(chunk, head).copy_from(scores);
    scores.scale_rows(work.beta());
    invert_unit_lower(scores, inverses.at(chunk, head));
  });
}

template void compute_inverses(const Context&, const LinearProblem&, const ChunkMatrices<float>&,
                               const ChunkMatrices<float>*);
template void compute_inverses(const Context&, const LinearProblem&, const ChunkMatrices<double>&,
                               const ChunkMatrices<double>*);

}  // namespace longship
