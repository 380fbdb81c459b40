#include "launch/recent_graphs.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

using Graphs = RecentGraphs<int>;

// What a user of the class does with work of `key`; returns what was launched, or 0.
int use(Graphs& graphs, int64_t key) {
  const Graphs::Found found = graphs.look_up({key});
  if (found.graph != nullptr) return *found.graph;
  if (found.is_due) graphs.keep(std::make_unique<const int>(static_cast<int>(key)));
  return 0;
}

TEST(RecentGraphs, AreDueTheSecondTimeAndLaunchedFromTheThirdOn) {
  Graphs graphs;
  EXPECT_EQ(use(graphs, 7), 0);
  EXPECT_EQ(graphs.num_graphs(), 0u);
  EXPECT_EQ(use(graphs, 7), 0);
  EXPECT_EQ(graphs.num_graphs(), 1u);
  EXPECT_EQ(use(graphs, 7), 7);
  EXPECT_EQ(use(graphs, 8), 0);
  EXPECT_EQ(use(graphs, 7), 7);
}

TEST(RecentGraphs, StayDueUntilTheyAreKept) {
  Graphs graphs;
  graphs.look_up({1});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(graphs.look_up({1}).is_due);
  graphs.keep(std::make_unique<const int>(1));
  EXPECT_FALSE(graphs.look_up({1}).is_due);
}

TEST(RecentGraphs, AreOfWholeKeys) {
  Graphs graphs;
  for (int i = 0; i < 2; ++i) graphs.look_up({1, 2, 3});
  graphs.keep(std::make_unique<const int>(5));
  EXPECT_EQ(graphs.look_up({1, 2}).graph, nullptr);
  EXPECT_EQ(graphs.look_up({1, 2, 4}).graph, nullptr);
  EXPECT_NE(graphs.look_up({1, 2, 3}).graph, nullptr);
}

TEST(RecentGraphs, AreNeverMadeOfKeysThatDoNotComeBack) {
  Graphs graphs;
  for (int64_t key = 0; key < 1000; ++key) EXPECT_FALSE(graphs.look_up({key}).is_due);
  // One of long ago is forgotten.
  EXPECT_FALSE(graphs.look_up({0}).is_due);
  EXPECT_TRUE(graphs.look_up({999}).is_due);
}

TEST(RecentGraphs, OutliveKeysThatDoNotComeBack) {
  Graphs graphs;
  for (int i = 0; i < 2; ++i) use(graphs, 5);
  for (int64_t key = 100; key < 300; ++key) use(graphs, key);
  EXPECT_EQ(use(graphs, 5), 5);
}

TEST(RecentGraphs, MakeRoomWhenTheyLieIdle) {
  Graphs graphs({.most_graphs = 2, .idle_lookups = 10});
  for (int64_t key : {1, 1, 2, 2, 1}) use(graphs, key);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(use(graphs, 3), 0);
  EXPECT_EQ(use(graphs, 2), 2);  // used in time
  for (int i = 0; i < 8; ++i) use(graphs, 3);
  EXPECT_EQ(use(graphs, 3), 3);
  EXPECT_EQ(graphs.num_graphs(), 2u);
  EXPECT_EQ(use(graphs, 2), 2);
  EXPECT_EQ(use(graphs, 1), 0) << "the one idle for longest went";
}

TEST(RecentGraphs, AreNotMadeAgainAndAgainByWorkThatTakesTurns) {
  Graphs graphs({.most_graphs = 2, .idle_lookups = 10});
  int num_launches = 0;
  for (int64_t i = 0; i < 300; ++i) num_launches += use(graphs, 1 + i % 3) > 0;
  EXPECT_EQ(num_launches, 2 * (100 - 2));
}

}  // namespace
}  // namespace longship
