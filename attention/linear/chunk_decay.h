// The decay within one chunk of one head, for every kind of gate, and what it does to rows, states,
// scores and their gradients. With g_t the log-gates, G_r = g_0 + ... + g_r from the chunk's start
// and c rows, e^{G_r - G_i} is taken apart into e^{G_r - G_m} e^{G_m - G_i} around a row m where no
// exponent can grow beyond kLimit, so that decayed scores are matrix products; elsewhere the
// difference is formed before exp.
#pragma once

#include <array>

#include "attention/linear/linear_problem.h"
#include "attention/linear/panel_matrix.h"

namespace longship {

enum class GateKind { kNone, kConstant, kScalar, kVector };

// The kind of LinearInput's gate, by its rank.
GateKind gate_kind(const Tensor& gate);

// K key size; `rows` are matrices [c, K], `state` is [K, any], scores are [c, c].
template <class A>
class ChunkDecay {
 public:
  // `workspace` holds workspace_size() numbers, aligned to the vector size, and is the object's own
  // until it goes; `problem` outlives this.
  ChunkDecay(const LinearProblem& problem, A* workspace);
  static int64_t workspace_size(const LinearProblem& problem);

  // Reads the gates of a chunk of a head; what follows is about them.
  void begin(const Chunk& chunk, int64_t head);

  // x_r *= e^{G_r}
  void decay_from_start(const PanelMatrix<A>& rows) const;
  // x_r *= e^{G_last - G_r}
  void decay_to_end(const PanelMatrix<A>& rows) const;
  // S[d] *= e^{G_last[d]}
  void decay_state(const PanelMatrix<A>& state) const;

  // scores[r][i] = sum_d left_r[d] right_i[d] e^{G_r[d] - G_i[d]} for i < r, without the decay for
  // i = r if `with_diagonal`; 0 elsewhere. Vector gates take a reference row for all rows of the
  // chunk if they are weak, else per 32 or 16 rows (secondary chunks of GLA, Yang et al. 2023,
  // arXiv 2312.06635); pairs within 16 rows that are stronger still are formed one by one.
  void scores(const PanelMatrix<A>& left, const PanelMatrix<A>& right, bool with_diagonal,
              const PanelMatrix<A>& out) const;
  // Adds the gradients of left and right that come from the scores below the diagonal; dscores is
  // 0 on and above it, and is overwritten.
  void score_gradients(const PanelMatrix<A>& dscores, const PanelMatrix<A>& left,
                       const PanelMatrix<A>& right, const PanelMatrix<A>& dleft,
                       const PanelMatrix<A>& dright) const;

  // products[d] = e^{G_last[d]} <S[d], dS[d]>
  void state_products(const PanelMatrix<A>& state, const PanelMatrix<A>& dstate,
                      A* products_K) const;

 private:
  static constexpr int64_t kChunk = LinearProblem::kChunkSize, kSmallestBlock = 16;
  // e^{2 kLimit} times the squares of queries and keys stays far below the largest float.
  static constexpr A kLimit = 40;

  // Rows [begin, end) of scores with their columns [0, num_columns), decayed around row
  // `reference`; their other columns up to the diagonal are formed one by one.
  struct Block {
    int64_t begin, end, reference, num_columns;
    bool is_whole() const { return num_columns == end; }
  };

  A state_decay(int64_t d) const;  // e^{G_last[d]}
  int64_t reference(int64_t begin, int64_t end) const { return (begin + end) / 2; }
  // Whether |G_r - G_m| stays within kLimit in the rows [begin, end), m their reference.
  bool is_weak(int64_t begin, int64_t end) const;
  Block block_at(int64_t begin) const;
  // e^{G_r - G_m} of the block's rows, and e^{G_m - G_i} of its columns.
  PanelMatrix<A> row_factors(const Block& block) const;
  PanelMatrix<A> column_factors(const Block& block) const;
  void block_scores(const Block& block, const PanelMatrix<A>& left, const PanelMatrix<A>& right,
                    bool with_diagonal, const PanelMatrix<A>& out) const;
  void block_gradients(const Block& block, const PanelMatrix<A>& dscores,
                       const PanelMatrix<A>& left, const PanelMatrix<A>& right,
                       const PanelMatrix<A>& dleft, const PanelMatrix<A>& dright) const;
  void decay_scores(const PanelMatrix<A>& scores) const;
  void begin_scalar(const Chunk& chunk, int64_t head);
  PanelMatrix<A> cumulated() const { return {cumulated_, length_, problem_.key_size}; }

  const LinearProblem& problem_;
  GateKind kind_;
  int64_t length_ = 0, block_size_ = kChunk;
  bool is_weak_ = false;  // scalar gates: is_weak of all rows
  // Scalar gates: G_r, padded to whole panels; fp64, so that neighbours still differ exactly after
  // many strong gates.
  std::array<double, kChunk + kPanelLanes<A>> scalar_;
  // Scalar gates: e^{G_r}, e^{G_last - G_r}, e^{G_r - G_m}, e^{G_m - G_r}.
  A *from_start_, *to_end_, *since_, *until_;
  A* transposed_;
  // Vector gates.
  A *cumulated_, *row_factors_, *column_factors_, *left_, *right_;
};

}  // namespace longship
