#include "runtime/memo.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

namespace longship {
namespace {

TEST(Memo, MakesAnObjectOnceForItsTypeAndKey) {
  const Memo memo;
  int made = 0;
  auto text = [&](int key) {
    return memo.get<std::string>(key, [&] {
      ++made;
      return std::to_string(key);
    });
  };
  const auto one = text(1);
  EXPECT_EQ(*one, "1");
  EXPECT_EQ(*text(2), "2");
  EXPECT_EQ(text(1), one);
  EXPECT_EQ(made, 2);
  // Another type, and another type of key.
  EXPECT_EQ(*memo.get<int>(1, [] { return 5; }), 5);
  EXPECT_EQ(*memo.get<std::string>(std::string("1"), [] { return std::string("x"); }), "x");
  EXPECT_EQ(text(1), one);
}

TEST(Memo, AnObjectMayBeMadeOfOthers) {
  const Memo memo;
  const auto sum = memo.get<int>(2, [&] { return *memo.get<int>(1, [] { return 20; }) + 1; });
  EXPECT_EQ(*sum, 21);
  EXPECT_EQ(*memo.get<int>(1, [] { return 0; }), 20);
}

TEST(Memo, ACopyStartsAnew) {
  Memo memo;
  const auto old = memo.get<int>(1, [] { return 1; });
  const Memo copy = memo;
  EXPECT_EQ(*copy.get<int>(1, [] { return 2; }), 2);
  memo = copy;
  EXPECT_EQ(*memo.get<int>(1, [] { return 3; }), 3);
  EXPECT_EQ(*old, 1);
}

TEST(Memo, ThreadsGetTheSameObject) {
  const Memo memo;
  std::vector<const int*> seen(8);
  std::vector<std::thread> threads;
  for (const int*& object : seen)
    threads.emplace_back([&] { object = memo.get<int>(7, [] { return 7; }).get(); });
  for (std::thread& thread : threads) thread.join();
  for (const int* object : seen) EXPECT_EQ(object, seen[0]);
}

}  // namespace
}  // namespace longship
