// The group of one rank: the same operations, without anyone to talk to.
#include "parallel/self_group.h"

#include <gtest/gtest.h>

#include "parallel/group.h"
#include "parallel/mesh.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

const std::vector<float> kValues = {1.5f, -2.0f, 3.0f, 0.25f, 8.0f, -1.0f};

class SelfGroup : public ::testing::Test {
 protected:
  Tensor values() const { return Tensor::from<float>(memory_, {3, 2}, kValues); }
  Tensor zeros() const { return Tensor::zeros(memory_, {3, 2}, DType::kF32); }
  static void expect_values(const Tensor& tensor) {
    EXPECT_EQ(std::vector<float>(tensor.data<float>(), tensor.data<float>() + tensor.numel()),
              kValues);
  }

  std::shared_ptr<Memory> memory_ = std::make_shared<Memory>();
  Group group_ = Group::self();
  std::vector<int64_t> rows_ = {3};
};

TEST_F(SelfGroup, IsRankZeroOfOne) {
  EXPECT_EQ(group_.rank(), 0);
  EXPECT_EQ(group_.size(), 1);
  const Group child = group_.split(4, 2);
  EXPECT_EQ(child.rank(), 0);
  EXPECT_EQ(child.size(), 1);
}

TEST_F(SelfGroup, CopiesRowsAndLeavesSumsAlone) {
  const Tensor moved = zeros(), gathered = zeros(), scattered = zeros();
  EXPECT_TRUE(group_.all_to_all("x", values(), rows_, moved, rows_).done());
  expect_values(moved);
  group_.all_gather("x", values(), gathered, rows_).wait();
  expect_values(gathered);
  group_.reduce_scatter("x", values(), scattered, rows_).wait();
  expect_values(scattered);
  const Tensor reduced = values();
  group_.all_reduce("x", reduced).wait();
  group_.broadcast("x", reduced, 0).wait();
  expect_values(reduced);
  group_.barrier("x");
  EXPECT_EQ(group_.all_reduce_value("x", int64_t{5}, ReduceOp::kMin), 5);
  EXPECT_EQ(group_.all_reduce_value("x", 0.5, ReduceOp::kSum), 0.5);
  EXPECT_EQ(group_.all_gather_bytes("x", "abc"), std::vector<std::string>{"abc"});
  EXPECT_EQ(group_.broadcast_bytes("x", "abc", 0), "abc");
}

TEST_F(SelfGroup, MatchesItsOwnMessagesInOrder) {
  const Tensor first = Tensor::from<float>(memory_, {2}, std::vector<float>{1, 2});
  const Tensor second = Tensor::from<float>(memory_, {1}, std::vector<float>{3});
  const Tensor to_first = Tensor::zeros(memory_, {2}, DType::kF32);
  const Tensor to_second = Tensor::zeros(memory_, {1}, DType::kF32);
  group_
      .exchange("x", {P2P::receive(0, to_first), P2P::send(0, first), P2P::send(0, second),
                      P2P::receive(0, to_second)})
      .wait();
  EXPECT_EQ(to_first.data<float>()[1], 2);
  EXPECT_EQ(to_second.data<float>()[0], 3);
}

TEST_F(SelfGroup, CopiesRowsThatLieApart) {
  const Tensor columns = values().slice(1, 1, 1);
  const Tensor packed = Tensor::zeros(memory_, {3}, DType::kF32), wide = zeros();
  group_
      .exchange("x", {P2P::send(0, columns), P2P::receive(0, packed), P2P::send(0, columns),
                      P2P::receive(0, wide.slice(1, 0, 1))})
      .wait();
  const float* const w = wide.data<float>();
  EXPECT_EQ(std::vector<float>(w, w + 6), (std::vector<float>{-2, 0, 0.25f, 0, -1, 0}));
  wide.fill_zero();
  group_.exchange("x", {P2P::send(0, packed), P2P::receive(0, wide.slice(1, 1, 1))}).wait();
  EXPECT_EQ(std::vector<float>(w, w + 6), (std::vector<float>{0, -2, 0, 0.25f, 0, -1}));
}

TEST_F(SelfGroup, CountsCallsButNoBytes) {
  const Group child = group_.split(0, 0);
  group_.barrier("a");
  child.all_reduce("b", values());
  child.all_reduce("b", values());
  EXPECT_EQ(group_.stats().by_label.at("a").num_calls, 1);
  EXPECT_EQ(group_.stats().by_label.at("b").num_calls, 2);
  EXPECT_EQ(group_.stats().total_sent_bytes(), 0);
  EXPECT_EQ(group_.stats().sent_bytes("never used"), 0);
  EXPECT_EQ(group_.stats().wait_s, 0);
  group_.reset_stats();
  EXPECT_TRUE(child.stats().by_label.empty());
}

TEST_F(SelfGroup, RefusesWhatDoesNotFit) {
  auto internal = [](std::initializer_list<std::string> parts, auto&& f) {
    testing::expect_error(ErrorCode::kInternal, parts, f);
  };
  internal({"x.bad", "peer 1", "group of 1"},
           [&] { group_.exchange("x.bad", {P2P::send(1, values())}); });
  internal({"itself"}, [&] { group_.exchange("x.bad", {P2P::send(0, values())}); });
  internal({"fp32", "bf16"}, [&] {
    group_.all_gather("x.bad", values(), Tensor::zeros(memory_, {3, 2}, DType::kBF16), rows_);
  });
  internal({"[3, 2]", "sum to 4"},
           [&] { group_.all_to_all("x.bad", values(), std::vector<int64_t>{4}, zeros(), rows_); });
  internal({"contiguous"}, [&] { group_.all_reduce("x.bad", values().transpose(0, 1)); });
  internal({"u8"}, [&] { group_.all_reduce("x.bad", Tensor::zeros(memory_, {1}, DType::kU8)); });
  internal({"root 1"}, [&] { group_.broadcast("x.bad", values(), 1); });
  EXPECT_TRUE(group_.stats().by_label.empty());
}

TEST(Mesh, OfOneRankHasThreeGroupsOfOne) {
  const Mesh mesh = Mesh::make(Group::self(), 1, 1);
  EXPECT_EQ(mesh.world.size() + mesh.dp.size() + mesh.sp.size(), 3);
  testing::expect_error(ErrorCode::kConfig, {"dp = 2, sp = 1", "mpirun -n 2"},
                        [] { Mesh::make(Group::self(), 2, 1); });
  testing::expect_error(ErrorCode::kConfig, {"at least 1"},
                        [] { Mesh::make(Group::self(), 1, 0); });
}

}  // namespace
}  // namespace longship
