// Checks that every chunked linear-attention kernel passes, against the plain recurrence and its
// adjoint in fp64 (naive_linear.h). Shapes as in attention/linear/linear_kernel.h.
#pragma once

#include <vector>

#include "attention/linear/linear_kernel.h"

namespace longship::testing {

enum class Gate { kNone, kConstant, kScalar, kVector };
constexpr Gate kAllGates[] = {Gate::kNone, Gate::kConstant, Gate::kScalar, Gate::kVector};

struct LinearSettings {
  int64_t G = 1, H = 2, K = 8, V = 8;
  Gate gate = Gate::kScalar;
  double strongest_gate = -0.5, weakest_gate = 0;
  double max_beta = 1;  // delta rule only
};

// Runs of documents with what enters and what is asked back.
struct LinearCase {
  LinearInput input;
  std::vector<Segment> segments;
  std::vector<int64_t> cut;  // the segments that the rows of states belong to
  Tensor states_NHKV, do_THV, dstates_NHKV;
};

struct LinearResult {
  AffineSummary summary, backward_summary;
  Tensor walked_NHKV, walked_back_NHKV;  // from the states of the case
  Tensor o_THV;
  LinearGradients gradients;
};

// Upper bounds of relative root-mean-square errors.
struct LinearBounds {
  double o = 1e-12, gradient = 1e-12, dgate = 1e-11;
};
constexpr LinearBounds kF32Bounds{.o = 2e-6, .gradient = 3e-6, .dgate = 1e-5};

class LinearKernelCheck {
 public:
  // `kernel` outlives this; has_beta for the delta rule.
  LinearKernelCheck(const LinearKernel& kernel, bool has_beta)
      : kernel_(kernel), has_beta_(has_beta) {}

  // One segment per length, all with states; the second of every three continues the document of
  // the one before. Keys have length 1. The same numbers in every dtype.
  LinearCase make_case(Context& ctx, const std::vector<int64_t>& lengths,
                       const LinearSettings& settings, DType dtype) const;
  LinearResult run(Context& ctx, const LinearCase& c) const;

  // Outputs, gradients, both summaries and walks.
  void expect_equal_to_recurrence(Context& ctx, const LinearCase& c,
                                  const LinearBounds& bounds) const;
  // In fp64 and fp32.
  void expect_equal_to_recurrence(const std::vector<int64_t>& lengths,
                                  const LinearSettings& settings) const;
  // A document of more than three chunks cut in two, joined by the summaries: the same results, in
  // the same bits where the cut is one of the chunk grid.
  void expect_segments_compose(const LinearSettings& settings, int64_t chunk_size) const;
  // The others start from zero and leave no summary; the same bits as with rows of zeros.
  void expect_only_cut_segments_have_states(const LinearSettings& settings) const;
  // Thousands of documents of one token: nothing is kept or summarised per document.
  void expect_little_memory_for_short_documents() const;
  void expect_same_bits_on_any_number_of_threads(const std::vector<int64_t>& lengths,
                                                 const LinearSettings& settings) const;

 private:
  const LinearKernel& kernel_;
  bool has_beta_;
};

}  // namespace longship::testing
