#include "tests/support/state_case.h"

#include <algorithm>

#include "runtime/random.h"
#include "tests/support/mpi_main.h"

namespace longship::testing {

std::vector<std::vector<int64_t>> state_batches() {
  std::vector<int64_t> random = {0};
  for (uint64_t d = 0; d < 9; ++d)
    random.push_back(random.back() +
                     (d % 3 == 0 ? 1 : static_cast<int64_t>(uniform_index(2, 7, d, 17))));
  return {
      {0, 61},                    // one document
      random,                     // random documents, some of one token
      {0, 3, 3, 53, 54, 61, 61},  // one over at least four of four or more ranks
      {0, 2, 3},                  // fewer tokens than ranks
      {0, 0},                     // nothing at all
  };
}

Shape shape_of_m(Transition transition) {
  if (transition == Transition::kScalar) return {kStateHeads};
  if (transition == Transition::kDiagonal) return {kStateHeads, kStateKeys};
  return {kStateHeads, kStateKeys, kStateKeys};
}

std::vector<Segment> cut_of(const SequencePlan& plan, int rank) {
  std::vector<Segment> cut;
  for (const Segment& segment : plan.segments(rank)) {
    const auto document = plan.cu_seqlens().begin() + segment.document;
    if (segment.position > 0 || segment.length < document[1] - document[0]) cut.push_back(segment);
  }
  return cut;
}

AffineSummary make_summary(const Context& ctx, std::span<const Segment> segments,
                           Transition transition, DType dtype) {
  const auto num_segments = std::ssize(segments);
  auto fill = [&](Shape shape, uint64_t stream, auto&& value) {
    shape.insert(shape.begin(), num_segments);
    const Tensor tensor = ctx.empty(shape, DType::kF64);
    const int64_t row = num_segments > 0 ? tensor.numel() / num_segments : 0;
    for (int64_t n = 0; n < num_segments; ++n) {
      const auto seed = static_cast<uint64_t>(segments[static_cast<size_t>(n)].global_begin);
      for (int64_t i = 0; i < row; ++i)
        tensor.data<double>()[n * row + i] =
            value(normal(seed, stream, static_cast<uint64_t>(i)), i);
    }
    return tensor.to(dtype);
  };
  AffineSummary summary{
      transition, {}, fill({kStateHeads, kStateKeys, kStateValues}, 1, [](double x, int64_t) {
        return x;
      })};
  if (transition == Transition::kDense)
    summary.m = fill(shape_of_m(transition), 2, [](double x, int64_t i) {
      return (i / kStateKeys % kStateKeys == i % kStateKeys ? 0.9 : 0.0) + 0.1 * x;
    });
  else if (transition != Transition::kIdentity)
    summary.m = fill(shape_of_m(transition), 3, [](double x, int64_t) { return 0.9 + 0.02 * x; });
  return summary;
}

SequencePlan StateCase::plan() const {
  return SequencePlan::make(cu_seqlens, layout, world().size(), world().rank());
}

AffineSummary StateCase::summary(const Context& ctx) const {
  return make_summary(ctx, cut_of(plan(), plan().rank()), transition, dtype);
}

StateWalk walk_of(const StateCase& c) {
  const SequencePlan plan = c.plan();
  std::vector<std::pair<Segment, int64_t>> all;
  for (int rank = 0; rank < plan.num_ranks(); ++rank)
    for (int64_t row = 0; const Segment& segment : cut_of(plan, rank))
      all.emplace_back(segment, rank == plan.rank() ? row++ : -1);
  std::sort(all.begin(), all.end(), [&](const auto& a, const auto& b) {
    return c.forward() ? a.first.global_begin < b.first.global_begin
                       : a.first.global_begin > b.first.global_begin;
  });
  StateWalk walk;
  for (const auto& [segment, row] : all) {
    walk.segments.push_back(segment);
    walk.local_rows.push_back(row);
  }
  return walk;
}

Tensor expected_states(const Context& ctx, const StateCase& c) {
  const StateWalk walk = walk_of(c);
  const AffineSummary maps =
      make_summary(ctx, walk.segments, c.transition, c.dtype);  // rounded as the schedule sees it
  const Tensor b = maps.b_NHKV.to(DType::kF64);
  const Tensor m = maps.m.defined() ? maps.m.to(DType::kF64) : Tensor();
  auto factor = [&](int64_t n, int64_t h, int64_t k, int64_t j) {
    const int64_t head = n * kStateHeads + h;
    switch (c.transition) {
      case Transition::kIdentity:
        return k == j ? 1.0 : 0.0;
      case Transition::kScalar:
        return k == j ? m.data<double>()[head] : 0.0;
      case Transition::kDiagonal:
        return k == j ? m.data<double>()[head * kStateKeys + k] : 0.0;
      default:
        return m.data<double>()[(head * kStateKeys + (c.forward() ? k : j)) * kStateKeys +
                                (c.forward() ? j : k)];
    }
  };
  const auto num_cut = std::ssize(cut_of(c.plan(), c.plan().rank()));
  const Tensor states = ctx.zeros({num_cut, kStateHeads, kStateKeys, kStateValues}, DType::kF64);
  constexpr int64_t kStateSize = kStateHeads * kStateKeys * kStateValues;
  std::vector<double> state(kStateSize);
  for (size_t i = 0; i < walk.segments.size(); ++i) {
    if (i == 0 || walk.segments[i].document != walk.segments[i - 1].document)
      std::fill(state.begin(), state.end(), 0.0);
    if (walk.local_rows[i] >= 0)
      std::copy(state.begin(), state.end(),
                states.data<double>() + walk.local_rows[i] * kStateSize);
    const auto n = static_cast<int64_t>(i);
    std::vector<double> next(kStateSize);
    for (int64_t h = 0; h < kStateHeads; ++h)
      for (int64_t k = 0; k < kStateKeys; ++k)
        for (int64_t v = 0; v < kStateValues; ++v) {
          double sum = b.data<double>()[n * kStateSize + (h * kStateKeys + k) * kStateValues + v];
          for (int64_t j = 0; j < kStateKeys; ++j)
            sum += factor(n, h, k, j) *
                   state[static_cast<size_t>((h * kStateKeys + j) * kStateValues + v)];
          next[static_cast<size_t>((h * kStateKeys + k) * kStateValues + v)] = sum;
        }
    state = std::move(next);
  }
  return states;
}

}  // namespace longship::testing
