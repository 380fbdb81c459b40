#include "parallel/muted_group.h"

#include <gtest/gtest.h>

namespace longship {
namespace {

TEST(MutedGroup, MovesNothingAndCountsApart) {
  const Group group = Group::self();
  const Group silent = muted(group);
  EXPECT_EQ(silent.rank(), 0);
  EXPECT_EQ(silent.size(), 1);
  const auto memory = std::make_shared<Memory>();
  const float values[] = {1, 2};
  const Tensor from = Tensor::from(memory, {2}, std::span<const float>(values));
  const Tensor to = Tensor::zeros(memory, {2}, DType::kF32);
  silent.exchange("x", {P2P::send(0, from), P2P::receive(0, to)}).wait();
  EXPECT_EQ(to.data<float>()[0], 0);
  group.exchange("x", {P2P::send(0, from), P2P::receive(0, to)}).wait();
  EXPECT_EQ(to.data<float>()[1], 2);
  EXPECT_EQ(silent.stats().by_label.at("x").num_calls, 1);
  EXPECT_EQ(group.stats().by_label.at("x").num_calls, 1);
}

TEST(MutedGroup, SplitsAsTheRealOne) {
  const Group part = muted(Group::self()).split(0, 0);
  EXPECT_EQ(part.size(), 1);
  const Tensor sum = Tensor::zeros(std::make_shared<Memory>(), {1}, DType::kF32);
  part.all_reduce("y", sum).wait();
  EXPECT_EQ(part.stats().total_sent_bytes(), 0);
}

}  // namespace
}  // namespace longship
