#include "attention/linear/query_scores.h"

#include "attention/linear/linear_chunk.h"
#include "attention/thread_scratch.h"
#include "runtime/parallel_for.h"

namespace longship {

template <class A>
void compute_query_scores(const Context& ctx, const LinearProblem& problem,
                          const ChunkMatrices<A>& scores) {
  const ThreadScratch<A> scratch(ctx, {LinearChunk<A>::workspace_size(problem)});
  parallel_for_dynamic(ctx, problem.grid.num_chunks() * problem.num_heads, [&](int64_t index) {
    const int64_t chunk = index / problem.num_heads, head = index % problem.num_heads;
    LinearChunk<A> work(problem, scratch.part(0));
    work.begin(chunk, head);
    work.query_scores(scores.at(chunk, head));
  });
}

template void compute_query_scores(const Context&, const LinearProblem&,
                                   const ChunkMatrices<float>&);
template void compute_query_scores(const Context&, const LinearProblem&,
                                   const ChunkMatrices<double>&);

}  // namespace longship
