// How well a model answers: the tokens of each answer under greedy decoding, given everything
// before them (teacher forcing).
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "launch/recall_tasks.h"
#include "parallel/group.h"
#include "parallel/sequence_plan.h"

namespace longship {

struct AnswerScore {
  bool is_right = false;       // every token was the likeliest one
  double log_probability = 0;  // mean over the tokens of the answer, natural log
};

// Samples laid end to end as documents, and their tokens as an i32 tensor.
struct RecallBatch {
  std::span<const RecallSample> samples;
  SequencePlan plan;
  Tensor tokens_T;  // the local ones

  RecallBatch(const Context& ctx, std::span<const RecallSample> samples, Layout layout,
              const Group& sp);
};

// hidden states [N, E] to logits [N, V] in fp32 or fp64.
using LogitsFunction = std::function<Tensor(const Tensor& hidden_NE)>;

// The answers of all samples in order, the same on every rank. hidden_TE are those of the local
// tokens; logits are computed only of the rows that an answer needs. Of equal logits the lowest id
// is the likeliest. Collective over `sp`.
std::vector<AnswerScore> score_answers(const Context& ctx, const Group& sp,
                                       const RecallBatch& batch, const Tensor& hidden_TE,
                                       const LogitsFunction& logits);

}  // namespace longship
