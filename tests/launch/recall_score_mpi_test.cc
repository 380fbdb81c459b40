// Scores of answers against hidden states that are made to be right or wrong.
// ranks: 1 2 3
#include "launch/recall_score.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::world;

constexpr int64_t kVocabSize = 11;

// Two documents of 9 and 4 tokens; answers of 3, 1 and 2 tokens.
std::vector<RecallSample> samples() {
  return {{.tokens = {0, 1, 2, 3, 4, 1, 2, 3, 5},
           .answers = {{.begin = 5, .length = 3, .stated_at = 1},
                       {.begin = 8, .length = 1, .stated_at = 4}}},
          {.tokens = {0, 7, 7, 9}, .answers = {{.begin = 2, .length = 2, .stated_at = 0}}}};
}

// A model whose hidden state is the logits: `confidence` for the token that really comes next, 0
// for the others; `wrong` tokens of the batch are predicted as one that does not come.
std::vector<AnswerScore> scores_of(double confidence, const std::vector<int64_t>& wrong,
                                   Layout layout, DType dtype) {
  const Context ctx;
  const std::vector<RecallSample> all = samples();
  const RecallBatch batch(ctx, all, layout, world());
  EXPECT_EQ(batch.plan.num_tokens(), 13);
  EXPECT_EQ(batch.plan.num_documents(), 2);
  std::vector<int32_t> tokens;
  for (const RecallSample& sample : all)
    tokens.insert(tokens.end(), sample.tokens.begin(), sample.tokens.end());
  const Tensor hidden_TV = ctx.zeros({13, kVocabSize}, DType::kF64);
  for (int64_t t = 0; t + 1 < 13; ++t) {
    const bool is_wrong = std::ranges::find(wrong, t + 1) != wrong.end();
    const int32_t next = is_wrong ? 10 : tokens[static_cast<size_t>(t + 1)];
    hidden_TV.data<double>()[t * kVocabSize + next] = confidence;
  }
  int64_t num_rows = 0;
  const auto scores = score_answers(ctx, world(), batch, batch.plan.shard(ctx, hidden_TV).to(dtype),
                                    [&](const Tensor& hidden_NE) {
                                      num_rows += hidden_NE.dim(0);
                                      return hidden_NE;
                                    });
  // Logits of the rows before answers, and of no others.
  EXPECT_EQ(world().all_reduce_value("test", num_rows, ReduceOp::kSum), 6);
  return scores;
}

TEST(RecallScore, AnOracleIsRightEverywhere) {
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
    for (DType dtype : {DType::kF32, DType::kF64}) {
      const auto scores = scores_of(30, {}, layout, dtype);
      ASSERT_EQ(scores.size(), 3u);
      for (const AnswerScore& score : scores) {
        EXPECT_TRUE(score.is_right);
        EXPECT_NEAR(score.log_probability, 0, 1e-11);
      }
    }
}

TEST(RecallScore, OneWrongTokenMakesAnAnswerWrong) {
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
    for (int64_t wrong : {5, 6, 7}) {  // of the first answer
      const auto scores = scores_of(30, {wrong}, layout, DType::kF64);
      EXPECT_FALSE(scores[0].is_right);
      EXPECT_NEAR(scores[0].log_probability, -30.0 / 3, 1e-9);
      EXPECT_TRUE(scores[1].is_right && scores[2].is_right);
    }
  const auto scores = scores_of(30, {8, 12}, Layout::kContiguous, DType::kF64);
  EXPECT_TRUE(scores[0].is_right);
  EXPECT_FALSE(scores[1].is_right || scores[2].is_right);
}

TEST(RecallScore, LogProbabilityIsThatOfTheSoftmax) {
  const double expected = 2 - std::log(std::exp(2.0) + kVocabSize - 1);
  for (const AnswerScore& score : scores_of(2, {}, Layout::kZigzag, DType::kF64))
    EXPECT_NEAR(score.log_probability, expected, 1e-12);
}

TEST(RecallScore, AModelWithoutPreferenceIsRightForTheLowestIdOnly) {
  for (const AnswerScore& score : scores_of(0, {}, Layout::kContiguous, DType::kF32)) {
    EXPECT_FALSE(score.is_right);
    EXPECT_NEAR(score.log_probability, -std::log(static_cast<double>(kVocabSize)), 1e-12);
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
