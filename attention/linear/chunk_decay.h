// The decay within one chunk of one head, for every kind of gate, and what it does to rows, states,
// scores and their gradients. With g_t the log-gates, G_r = g_0 + ... + g_r from the chunk's start
// and c rows: differences of G are formed before exp, so that no exponent is ever positive.
#pragma once

#include <vector>

#include "attention/linear/chunk_grid.h"
#include "attention/linear/panel_matrix.h"

namespace longship {

enum class GateKind { kNone, kConstant, kScalar, kVector };

// The kind of LinearInput's gate, by its rank.
GateKind gate_kind(const Tensor& gate);

// K key size; `rows` are matrices [c, K], `state` is [K, any], scores are [c, c].
template <class A>
class ChunkDecay {
 public:
  // `gate` as in LinearInput. `workspace` holds workspace_size() numbers, aligned to the vector
  // size, and is the object's own until it goes.
  ChunkDecay(const Tensor& gate, int64_t num_heads, int64_t key_size, int64_t chunk_size,
             A* workspace);
  static int64_t workspace_size(int64_t key_size, int64_t chunk_size);

  // Reads the gates of a chunk of a head; what follows is about them.
  void begin(const Chunk& chunk, int64_t head);

  // x_r *= e^{G_r}
  void decay_from_start(const PanelMatrix<A>& rows) const;
  // x_r *= e^{G_last - G_r}
  void decay_to_end(const PanelMatrix<A>& rows) const;
  // S[d] *= e^{G_last[d]}
  void decay_state(const PanelMatrix<A>& state) const;

  // scores[r][i] = sum_d left_r[d] right_i[d] e^{G_r[d] - G_i[d]} for i < r, without the decay for
  // i = r if `with_diagonal`; 0 elsewhere. Vector gates take a reference row per 16 rows (secondary
  // chunks of GLA, Yang et al. 2023, arXiv 2312.06635).
  void scores(const PanelMatrix<A>& left, const PanelMatrix<A>& right, bool with_diagonal,
              const PanelMatrix<A>& out) const;
  // Adds the gradients of left and right that come from the scores below the diagonal; dscores is
  // 0 on and above it, and is overwritten.
  void score_gradients(const PanelMatrix<A>& dscores, const PanelMatrix<A>& left,
                       const PanelMatrix<A>& right, const PanelMatrix<A>& dleft,
                       const PanelMatrix<A>& dright) const;

  // Adds the part of dG_last that belongs to the state: e^{G_last[d]} <S[d], dS[d]>.
  void add_state_gradient(const PanelMatrix<A>& state, const PanelMatrix<A>& dstate,
                          const PanelMatrix<A>& dcumulated) const;

 private:
  static constexpr int64_t kBlock = 16;

  void block_scores(int64_t begin, const PanelMatrix<A>& left, const PanelMatrix<A>& right,
                    bool with_diagonal, const PanelMatrix<A>& out) const;
  void block_gradients(int64_t begin, const PanelMatrix<A>& dscores, const PanelMatrix<A>& left,
                       const PanelMatrix<A>& right, const PanelMatrix<A>& dleft,
                       const PanelMatrix<A>& dright) const;
  PanelMatrix<A> cumulated() const { return {cumulated_, length_, key_size_}; }
  // The rows [begin, begin + count) of x times e^{G_r - G_begin}, and the rows before `begin` times
  // e^{G_begin - G_i}: all their products are decayed scores.
  PanelMatrix<A> decayed_since(int64_t begin, int64_t count, const PanelMatrix<A>& x) const;
  PanelMatrix<A> decayed_until(int64_t begin, const PanelMatrix<A>& x) const;

  GateKind kind_;
  const A* gate_ = nullptr;
  int64_t num_heads_, key_size_;
  int64_t length_ = 0;
  // fp64, so that neighbours still differ exactly after many strong gates.
  std::vector<double> scalar_;  // G_r, padded to whole panels
  A *cumulated_, *left_, *right_, *right_transposed_;
};

}  // namespace longship
