#include "data/batch.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <set>

#include "data/batch_loader.h"
#include "tests/data/token_file_fixture.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::expect_error;
using testing::RandomDocuments;
using testing::TemporaryFolder;

constexpr int64_t kVocab = 300;

template <class T>
std::vector<T> values(const Tensor& tensor) {
  const T* data = tensor.data<T>();
  return {data, data + tensor.numel()};
}

class BatchTest : public ::testing::TestWithParam<PackingMode> {
 protected:
  BatchTest() : documents_(RandomDocuments::make({40, 2, 1, 17, 90, 33, 5, 64, 2, 70}, kVocab, 3)) {
    documents_.write(folder_.path("a.tokens"), kVocab);
    file_ = TokenFile::open(folder_.path("a.tokens"));
    packing_ = std::make_shared<const Packing>(
        file_->document_lengths(), PackingOptions{.context = 48, .mode = GetParam(), .seed = 7});
  }

  std::shared_ptr<const BatchBuilder> builder(const BatchSharding& sharding = {},
                                              int64_t vocab_size = kVocab) const {
    return std::make_shared<const BatchBuilder>(file_, packing_, sharding, vocab_size,
                                                std::make_shared<Memory>());
  }

  TemporaryFolder folder_;
  RandomDocuments documents_;
  std::shared_ptr<const TokenFile> file_;
  std::shared_ptr<const Packing> packing_;
};

INSTANTIATE_TEST_SUITE_P(Modes, BatchTest,
                         ::testing::Values(PackingMode::kBestFit, PackingMode::kContinuous),
                         [](const auto& info) {
                           return info.param == PackingMode::kBestFit ? "BestFit" : "Continuous";
                         });

TEST_P(BatchTest, HoldsInputsTargetsAndWeightsOfItsPieces) {
  for (int64_t first = 0; first < 2 * packing_->num_samples(); ++first) {
    const Batch batch = builder()->build(first, 3);
    std::vector<int32_t> tokens, targets;
    std::vector<float> weights;
    std::vector<int64_t> cu_seqlens = {0};
    int64_t num_loss_tokens = 0;
    for (int64_t n = first; n < first + 3; ++n)
      for (const Piece& piece : packing_->sample(n)) {
        const auto d = static_cast<size_t>(piece.document);
        for (auto i = static_cast<size_t>(piece.begin);
             i < static_cast<size_t>(piece.begin + piece.length); ++i) {
          tokens.push_back(documents_.tokens[d].at(i));
          targets.push_back(documents_.tokens[d].at(i + 1));
          weights.push_back(documents_.counts(d, i + 1) ? 1.0f : 0.0f);
          num_loss_tokens += documents_.counts(d, i + 1);
        }
        cu_seqlens.push_back(std::ssize(tokens));
      }
    EXPECT_EQ(values<int32_t>(batch.tokens_T), tokens);
    EXPECT_EQ(values<int32_t>(batch.targets_T), targets);
    EXPECT_EQ(values<float>(batch.loss_weights_T), weights);
    EXPECT_EQ(batch.plan.cu_seqlens(), cu_seqlens);
    EXPECT_EQ(batch.num_loss_tokens, num_loss_tokens);
    EXPECT_EQ(builder()->num_loss_tokens(first, 3), num_loss_tokens);
    EXPECT_EQ(batch.first_sample, first);
  }
}

TEST_P(BatchTest, ShardsOfAllRanksMakeUpTheBatchOfOneRank) {
  const Batch whole = builder()->build(1, 3);
  const auto tokens = values<int32_t>(whole.tokens_T);
  const auto targets = values<int32_t>(whole.targets_T);
  const auto weights = values<float>(whole.loss_weights_T);
  for (Layout layout : {Layout::kContiguous, Layout::kZigzag})
    for (int num_ranks : {1, 2, 3, 8}) {
      std::vector<int> seen(tokens.size(), 0);
      for (int rank = 0; rank < num_ranks; ++rank) {
        const Batch shard =
            builder({.layout = layout, .num_ranks = num_ranks, .rank = rank})->build(1, 3);
        EXPECT_EQ(shard.num_loss_tokens, whole.num_loss_tokens);
        EXPECT_EQ(shard.token_hash, whole.token_hash);
        EXPECT_EQ(shard.plan.rank(), rank);
        ASSERT_EQ(shard.tokens_T.shape(), Shape{shard.plan.num_local_tokens()});
        for (const Segment& segment : shard.plan.local_segments())
          for (int64_t i = 0; i < segment.length; ++i) {
            const auto at = static_cast<size_t>(segment.global_begin + i);
            ++seen[at];
            EXPECT_EQ(shard.tokens_T.data<int32_t>()[segment.slot + i], tokens[at]);
            EXPECT_EQ(shard.targets_T.data<int32_t>()[segment.slot + i], targets[at]);
            EXPECT_EQ(shard.loss_weights_T.data<float>()[segment.slot + i], weights[at]);
          }
      }
      EXPECT_EQ(seen, std::vector<int>(seen.size(), 1)) << num_ranks << " ranks";
    }
}

TEST_P(BatchTest, TokenHashTellsBatchesApart) {
  std::set<uint64_t> hashes;
  for (int64_t first = 0; first < packing_->num_samples(); ++first)
    hashes.insert(builder()->build(first, 1).token_hash);
  EXPECT_EQ(std::ssize(hashes), packing_->num_samples());
}

TEST_P(BatchTest, LoaderGivesTheBatchesOfItsScheduleForEveryDepth) {
  const auto build = builder();
  for (int depth : {0, 1, 4})
    for (int dp_rank : {0, 1, 2}) {
      BatchLoader loader(
          build, {.first_sample = 5, .samples_per_batch = 2, .num_dp_ranks = 3, .dp_rank = dp_rank},
          depth);
      for (int64_t b = 0; b < 9; ++b) {
        const Batch batch = loader.next();
        const int64_t first = 5 + (b * 3 + dp_rank) * 2;
        EXPECT_EQ(batch.first_sample, first);
        EXPECT_EQ(batch.token_hash, build->build(first, 2).token_hash);
      }
      EXPECT_GT(loader.wait_s(), 0);
    }
}

TEST_P(BatchTest, LoaderMayEndBeforeItsBatchesAreTaken) {
  for (int taken = 0; taken < 3; ++taken) {
    BatchLoader loader(builder(), {}, 2);
    for (int b = 0; b < taken; ++b) EXPECT_EQ(loader.next().first_sample, b);
  }
}

TEST_P(BatchTest, LoaderThrowsAnErrorAtItsTurnAndEverAfter) {
  BatchLoader loader(builder(), {}, 1);
  for (int b = 0; b < 3; ++b) loader.next();
  std::filesystem::last_write_time(folder_.path("a.tokens"), {});
  auto drain = [&] {
    for (int b = 0; b < 3; ++b) loader.next();
  };
  expect_error(ErrorCode::kCorrupt, {"a.tokens", "changed"}, drain);
  expect_error(ErrorCode::kCorrupt, {"a.tokens", "changed"}, [&] { loader.next(); });
}

TEST_P(BatchTest, LoaderRefusesSchedulesThatCannotBe) {
  const auto build = builder();
  auto refuse = [&](const BatchSchedule& schedule, int depth, const std::string& part) {
    expect_error(ErrorCode::kConfig, {part}, [&] { BatchLoader(build, schedule, depth); });
  };
  refuse({.first_sample = -1}, 1, "first sample");
  refuse({.samples_per_batch = 0}, 1, "samples per batch");
  refuse({.num_dp_ranks = 0}, 1, "number of data-parallel ranks");
  refuse({.num_dp_ranks = 2, .dp_rank = 2}, 1, "data-parallel rank");
  refuse({}, -1, "depth");
}

TEST_P(BatchTest, RefusesAModelWithASmallerVocabulary) {
  expect_error(ErrorCode::kConfig, {"a.tokens", "299", "300 ids (numbers)"},
               [&] { builder({}, 299); });
  EXPECT_NO_THROW(builder({}, 301));
}

TEST(Batch, EveryRankNamesDocumentAndOffsetOfAnIdOutsideTheVocabulary) {
  const TemporaryFolder folder;
  RandomDocuments{.tokens = {{1, 2, 3, 4}, {5, 6, 7, 290, 8, 9}}, .masks = {{}, {}}}.write(
      folder.path("a.tokens"), 300);
  // The header says a smaller vocabulary than the tokens have, with a right checksum.
  std::string bytes = folder.read("a.tokens");
  TokenFileHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  header.vocab_size = 100;
  header.header_checksum = header.compute_checksum();
  std::memcpy(bytes.data(), &header, sizeof header);
  const auto file = TokenFile::open(folder.write("forged.tokens", bytes));
  const auto packing =
      std::make_shared<const Packing>(file->document_lengths(), PackingOptions{.context = 8});
  for (int rank = 0; rank < 4; ++rank) {
    const BatchBuilder builder(file, packing, {.num_ranks = 4, .rank = rank}, 100,
                               std::make_shared<Memory>());
    expect_error(ErrorCode::kCorrupt, {"forged.tokens", "document 1, token 3", "100", "290"},
                 [&] { builder.build(0, packing->num_samples()); });
  }
}

}  // namespace
}  // namespace longship
