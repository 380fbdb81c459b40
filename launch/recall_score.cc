#include "launch/recall_score.h"

#include <algorithm>
#include <cmath>

#include "runtime/gpu.h"
#include "runtime/host_copy.h"

namespace longship {
namespace {

constexpr int64_t kRowsAtOnce = 256;  // of logits in memory

// A token to predict: from the hidden state of a local row, for an answer.
struct Prediction {
  int64_t row = 0;
  int32_t target = 0;
  int64_t answer = 0;  // number in the batch
};

// Those whose hidden states are on this rank, in the order of their rows.
std::vector<Prediction> local_predictions(const RecallBatch& batch) {
  struct Row {
    int64_t token;  // of the batch, whose hidden state is needed
    Prediction prediction;
  };
  std::vector<Row> needed;
  int64_t first_token = 0, answer = 0;
  for (const RecallSample& sample : batch.samples) {
    for (const RecallAnswer& part : sample.answers) {
      for (int64_t i = 0; i < part.length; ++i)
        needed.push_back(
            {first_token + part.begin + i - 1,
             {.target = sample.tokens[static_cast<size_t>(part.begin + i)], .answer = answer}});
      ++answer;
    }
    first_token += std::ssize(sample.tokens);
  }
  std::vector<Prediction> found;
  for (const Segment& segment : batch.plan.local_segments())
    for (auto row = std::ranges::lower_bound(needed, segment.global_begin, {}, &Row::token);
         row != needed.end() && row->token < segment.global_begin + segment.length; ++row) {
      found.push_back(row->prediction);
      found.back().row = segment.slot + row->token - segment.global_begin;
    }
  return found;
}

// The natural logarithm of the probability of `target`, and whether it is the likeliest.
std::pair<double, bool> judge(std::span<const double> logits, int32_t target) {
  const auto likeliest = std::ranges::max_element(logits);
  double sum = 0;
  for (double logit : logits) sum += std::exp(logit - *likeliest);
  const double own = logits[static_cast<size_t>(target)];
  return {own - *likeliest - std::log(sum), likeliest - logits.begin() == target};
}

}  // namespace

RecallBatch::RecallBatch(const Context& ctx, std::span<const RecallSample> of_batch, Layout layout,
                         const Group& sp)
    : samples(of_batch) {
  std::vector<int64_t> cu_seqlens = {0};
  std::vector<int32_t> tokens;
  for (const RecallSample& sample : samples) {
    tokens.insert(tokens.end(), sample.tokens.begin(), sample.tokens.end());
    cu_seqlens.push_back(std::ssize(tokens));
  }
  const Shape shape = {cu_seqlens.back()};
  plan = SequencePlan::make(std::move(cu_seqlens), layout, sp.size(), sp.rank());
  const Context host = host_context(ctx);
  tokens_T = upload(ctx, plan.shard(host, Tensor::from<int32_t>(host.memory, shape, tokens)));
}

std::vector<AnswerScore> score_answers(const Context& ctx, const Group& sp,
                                       const RecallBatch& batch, const Tensor& hidden_TE,
                                       const LogitsFunction& logits) {
  int64_t num_answers = 0;
  for (const RecallSample& sample : batch.samples) num_answers += std::ssize(sample.answers);
  // Of each answer: wrong tokens, and the sum of log-probabilities.
  const Context host = host_context(ctx);
  const Tensor sums = host.zeros({num_answers, 2}, DType::kF64);
  double* sum = sums.data<double>();
  const std::vector<Prediction> predictions = local_predictions(batch);
  for (int64_t begin = 0; begin < std::ssize(predictions); begin += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, std::ssize(predictions) - begin);
    const Tensor rows_NE = ctx.empty({count, hidden_TE.dim(1)}, hidden_TE.dtype());
    auto prediction = [&](int64_t i) { return predictions[static_cast<size_t>(begin + i)]; };
    for (int64_t i = 0; i < count; ++i)
      rows_NE.slice(0, i, 1).copy_from(hidden_TE.slice(0, prediction(i).row, 1));
    const Tensor logits_NV = logits(rows_NE).to(host.memory).to(DType::kF64).contiguous();
    const auto vocab_size = static_cast<size_t>(logits_NV.dim(1));
    for (int64_t i = 0; i < count; ++i) {
      const double* row = logits_NV.data<double>() + i * logits_NV.dim(1);
      const auto [log_probability, is_likeliest] = judge({row, vocab_size}, prediction(i).target);
      sum[2 * prediction(i).answer] += is_likeliest ? 0 : 1;
      sum[2 * prediction(i).answer + 1] += log_probability;
    }
  }
  sp.all_reduce("recall.scores", sums).wait();
  std::vector<AnswerScore> scores;
  for (const RecallSample& sample : batch.samples)
    for (const RecallAnswer& answer : sample.answers) {
      scores.push_back({.is_right = sum[0] == 0,
                        .log_probability = sum[1] / static_cast<double>(answer.length)});
      sum += 2;
    }
  return scores;
}

}  // namespace longship
