#include "data/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <thread>

#include "runtime/random.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

using testing::expect_error;

constexpr PackingMode kModes[] = {PackingMode::kBestFit, PackingMode::kContinuous};

// Mostly short documents, some empty or of one token, some longer than any context used here.
std::vector<int64_t> random_lengths(int64_t count, uint64_t seed) {
  std::vector<int64_t> lengths;
  for (uint64_t d = 0; d < static_cast<uint64_t>(count); ++d) {
    const uint64_t limit = d % 7 == 0 ? 300 : 20;
    lengths.push_back(static_cast<int64_t>(uniform_index(seed, 9, d, limit)));
  }
  return lengths;
}

int64_t total(const std::vector<Piece>& pieces) {
  int64_t sum = 0;
  for (const Piece& piece : pieces) sum += piece.length;
  return sum;
}

std::vector<std::vector<Piece>> epoch_of(const Packing& packing, int64_t epoch) {
  std::vector<std::vector<Piece>> samples;
  for (int64_t i = 0; i < packing.num_samples(); ++i)
    samples.push_back(packing.sample(epoch * packing.num_samples() + i));
  return samples;
}

TEST(Packing, EveryInputTokenOfAnEpochIsInExactlyOneSample) {
  const std::vector<int64_t> lengths = random_lengths(57, 1);
  for (PackingMode mode : kModes)
    for (int64_t context : {1, 3, 16, 100, 250}) {
      const Packing packing(lengths, {.context = context, .mode = mode, .seed = 11});
      for (int64_t epoch : {0, 1, 5}) {
        std::vector<std::vector<int>> seen;
        for (int64_t length : lengths) seen.emplace_back(std::max<int64_t>(length - 1, 0), 0);
        for (const std::vector<Piece>& sample : epoch_of(packing, epoch)) {
          ASSERT_FALSE(sample.empty());
          ASSERT_LE(total(sample), context);
          for (const Piece& piece : sample) {
            ASSERT_GT(piece.length, 0);
            for (int64_t i = 0; i < piece.length; ++i)
              ++seen.at(static_cast<size_t>(piece.document))
                    .at(static_cast<size_t>(piece.begin + i));
          }
        }
        for (size_t d = 0; d < seen.size(); ++d)
          ASSERT_EQ(seen[d], std::vector<int>(seen[d].size(), 1))
              << packing_mode_name(mode) << " context " << context << " document " << d;
      }
    }
}

TEST(Packing, BestFitCutsOnlyDocumentsLongerThanTheContext) {
  const std::vector<int64_t> lengths = random_lengths(80, 2);
  const int64_t context = 40;
  const Packing packing(lengths, {.context = context, .mode = PackingMode::kBestFit, .seed = 3});
  for (const std::vector<Piece>& sample : epoch_of(packing, 0))
    for (const Piece& piece : sample) {
      const int64_t inputs = lengths[static_cast<size_t>(piece.document)] - 1;
      EXPECT_EQ(piece.begin % context, 0);
      EXPECT_EQ(piece.length, std::min(context, inputs - piece.begin));
    }
}

// Best-fit decreasing as in the textbook: try every bin for every item.
std::vector<int64_t> rooms_of_plain_best_fit(std::vector<int64_t> items, int64_t context) {
  std::sort(items.rbegin(), items.rend());
  std::vector<int64_t> rooms;
  for (int64_t item : items) {
    auto best = rooms.end();
    for (auto room = rooms.begin(); room != rooms.end(); ++room)
      if (*room >= item && (best == rooms.end() || *room < *best)) best = room;
    if (best == rooms.end()) best = rooms.insert(rooms.end(), context);
    *best -= item;
  }
  std::sort(rooms.begin(), rooms.end());
  return rooms;
}

TEST(Packing, BestFitFillsSamplesLikeThePlainAlgorithm) {
  for (uint64_t seed : {1, 2, 3})
    for (int64_t context : {7, 50, 310}) {
      const std::vector<int64_t> lengths = random_lengths(100, seed);
      std::vector<int64_t> items;
      for (int64_t length : lengths)
        for (int64_t left = length - 1; left > 0; left -= context)
          items.push_back(std::min(left, context));
      const Packing packing(lengths, {.context = context, .seed = seed});
      for (int64_t epoch : {0, 3}) {
        std::vector<int64_t> rooms;
        for (const std::vector<Piece>& sample : epoch_of(packing, epoch))
          rooms.push_back(context - total(sample));
        std::sort(rooms.begin(), rooms.end());
        EXPECT_EQ(rooms, rooms_of_plain_best_fit(items, context));
      }
    }
}

TEST(Packing, ContinuousSamplesAreFullButOneOfAnEpoch) {
  const std::vector<int64_t> lengths = random_lengths(60, 4);
  const int64_t context = 64;
  const Packing packing(lengths, {.context = context, .mode = PackingMode::kContinuous});
  ASSERT_NE(packing.num_inputs() % context, 0);
  EXPECT_EQ(packing.num_samples(), packing.num_inputs() / context + 1);
  for (int64_t epoch : {0, 1}) {
    std::map<int64_t, int64_t> samples_by_size;
    for (const std::vector<Piece>& sample : epoch_of(packing, epoch))
      ++samples_by_size[total(sample)];
    EXPECT_EQ(samples_by_size,
              (std::map<int64_t, int64_t>{{packing.num_inputs() % context, 1},
                                          {context, packing.num_inputs() / context}}));
  }
}

TEST(Packing, ADocumentOfOneContextIsOneSample) {
  for (PackingMode mode : kModes) {
    const Packing packing({65}, {.context = 64, .mode = mode, .seed = 8});
    EXPECT_EQ(packing.num_samples(), 1);
    EXPECT_EQ(packing.sample(123), (std::vector<Piece>{{.document = 0, .begin = 0, .length = 64}}));
  }
}

TEST(Packing, SamplesDoNotDependOnTheOrderOfCallsOrOnThreads) {
  const std::vector<int64_t> lengths = random_lengths(40, 5);
  for (PackingMode mode : kModes) {
    const PackingOptions options{.context = 30, .mode = mode, .seed = 21};
    const Packing forward(lengths, options), shared(lengths, options);
    const int64_t count = 4 * forward.num_samples();
    std::vector<std::vector<Piece>> expected;
    for (int64_t n = 0; n < count; ++n) expected.push_back(forward.sample(n));
    std::vector<std::thread> threads;
    std::vector<int64_t> num_equal(4, 0);
    for (size_t t = 0; t < num_equal.size(); ++t)
      threads.emplace_back([&, t] {
        for (int64_t k = 0; k < count; ++k) {
          // Each thread in a direction and from a place of its own.
          const int64_t n =
              (t % 2 == 0 ? k : count - 1 - k) + static_cast<int64_t>(t) * forward.num_samples();
          num_equal[t] += shared.sample(n % count) == expected[static_cast<size_t>(n % count)];
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(num_equal, std::vector<int64_t>(4, count));
  }
}

TEST(Packing, SeedsAndEpochsHaveOrdersOfTheirOwn) {
  const std::vector<int64_t> lengths = random_lengths(60, 6);
  for (PackingMode mode : kModes) {
    std::set<std::vector<int64_t>> orders;
    for (uint64_t seed : {0, 1, 2})
      for (int64_t epoch : {0, 1, 2}) {
        const Packing packing(lengths, {.context = 20, .mode = mode, .seed = seed});
        std::vector<int64_t> order;
        for (const std::vector<Piece>& sample : epoch_of(packing, epoch))
          order.insert(order.end(), {sample[0].document, sample[0].begin});
        orders.insert(order);
      }
    EXPECT_EQ(orders.size(), 9u) << packing_mode_name(mode);
  }
}

// A resumed run must meet the samples that the version before would have met.
TEST(Packing, TheOrderOfAKnownCaseNeverChanges) {
  const std::vector<int64_t> lengths = {5, 12, 3, 7, 9, 2};
  auto flat = [&](PackingMode mode) {
    const Packing packing(lengths, {.context = 8, .mode = mode, .seed = 42});
    std::vector<int64_t> numbers;  // sample, document, begin, length
    for (int64_t n = packing.num_samples(); n < 2 * packing.num_samples(); ++n)
      for (const Piece& piece : packing.sample(n))
        numbers.insert(numbers.end(), {n, piece.document, piece.begin, piece.length});
    return numbers;
  };
  EXPECT_EQ(flat(PackingMode::kBestFit),
            (std::vector<int64_t>{4, 1, 0, 8, 5, 4, 0, 8, 6, 0, 0, 4, 6, 1,
                                  8, 3, 6, 5, 0, 1, 7, 3, 0, 6, 7, 2, 0, 2}));
  EXPECT_EQ(flat(PackingMode::kContinuous),
            (std::vector<int64_t>{4, 3, 0, 6, 4, 1, 0, 2, 5, 1, 2, 8, 6,  4, 7, 1, 6, 5,
                                  0, 1, 6, 2, 0, 2, 6, 0, 0, 4, 7, 1, 10, 1, 7, 4, 0, 7}));
}

TEST(Packing, RefusesAContextLongerThanAllData) {
  for (PackingMode mode : kModes) {
    // 4 + 0 + 0 + 2 input tokens.
    const std::vector<int64_t> lengths = {5, 1, 0, 3};
    EXPECT_NO_THROW(Packing(lengths, {.context = 6, .mode = mode}));
    expect_error(ErrorCode::kConfig, {"context of 7", "at most 6"},
                 [&] { Packing(lengths, {.context = 7, .mode = mode}); });
    expect_error(ErrorCode::kConfig, {"longer than all the data", "all 0 documents"},
                 [&] { Packing({}, {.context = 1, .mode = mode}); });
    for (int64_t context : {0, -5})
      expect_error(ErrorCode::kConfig, {"at least 1", std::to_string(context)},
                   [&] { Packing(lengths, {.context = context, .mode = mode}); });
  }
}

}  // namespace
}  // namespace longship
