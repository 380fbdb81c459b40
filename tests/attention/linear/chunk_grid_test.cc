#include "attention/linear/chunk_grid.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

TEST(ChunkGrid, CutsAtMultiplesOfTheDocumentPosition) {
  const std::vector<Segment> segments = {
      {.document = 0, .position = 6, .length = 7, .slot = 0},
      {.document = 1, .position = 0, .length = 4, .slot = 7},
      {.document = 2, .position = 5, .length = 2, .slot = 11},
  };
  const ChunkGrid grid(segments, 4);
  ASSERT_EQ(grid.num_segments(), 3);
  EXPECT_EQ(grid.num_chunks(), 5);
  const int64_t expected[][3] = {{0, 0, 2}, {0, 2, 4}, {0, 6, 1}, {1, 7, 4}, {2, 11, 2}};
  for (int64_t i = 0; i < grid.num_chunks(); ++i) {
    EXPECT_EQ(grid.chunk(i).segment, expected[i][0]) << i;
    EXPECT_EQ(grid.chunk(i).slot, expected[i][1]) << i;
    EXPECT_EQ(grid.chunk(i).length, expected[i][2]) << i;
  }
  EXPECT_EQ(grid.first_chunk(1), 3);
  EXPECT_EQ(grid.first_chunk(3), 5);
}

TEST(ChunkGrid, HasTheSameCutsHoweverADocumentIsSplit) {
  // Cuts inside the document, as positions, of the pieces of a document of 50 tokens.
  auto cuts = [](std::vector<int64_t> borders) {
    std::vector<Segment> segments;
    for (size_t i = 0; i + 1 < borders.size(); ++i)
      segments.push_back(
          {.position = borders[i], .length = borders[i + 1] - borders[i], .slot = borders[i]});
    std::vector<int64_t> found;
    const ChunkGrid grid(segments, 8);
    for (const Chunk& chunk : grid.chunks()) found.push_back(chunk.slot);
    return found;
  };
  EXPECT_EQ(cuts({0, 16, 40, 50}), cuts({0, 50}));
}

TEST(ChunkGrid, IsEmptyWithoutTokens) {
  const ChunkGrid grid({}, 64);
  EXPECT_EQ(grid.num_segments(), 0);
  EXPECT_EQ(grid.num_chunks(), 0);
}

}  // namespace
}  // namespace longship
