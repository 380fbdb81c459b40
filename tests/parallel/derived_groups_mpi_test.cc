// Groups made of others: parts of a group, the axes of a mesh, and a group that moves nothing.
// ranks: 1 4 6
#include <gtest/gtest.h>

#include "parallel/mesh.h"
#include "parallel/muted_group.h"
#include "tests/support/mpi_main.h"

namespace longship {
namespace {

using testing::world;

const std::shared_ptr<Memory> kMemory = std::make_shared<Memory>();

TEST(Group, SplitWhileAnOlderOperationIsWaitedForElsewhere) {
  const Group group = world();
  const Tensor tensor = Tensor::zeros(kMemory, {200000}, DType::kF32);
  Work work = group.all_reduce("test.before_split", tensor);
  if (group.rank() % 2 == 0) work.wait();
  const Group half = group.split(group.rank() % 2, 0);
  work.wait();
  EXPECT_EQ(half.size(), (group.size() + 1 - group.rank() % 2) / 2);
}

TEST(Group, ChildrenShareTheCountersOfTheirParent) {
  const Group group = world();
  const Group child = group.split(0, group.rank());
  group.reset_stats();
  child.all_reduce_value("test.child", int64_t{1}, ReduceOp::kSum);
  EXPECT_EQ(group.stats().sent_bytes("test.child"), (group.size() - 1) * 8);
}

// Operations of two groups are issued in one order and waited for in the reverse one, so matching
// by arrival would mix them up.
TEST(Group, ManyOperationsOfTwoGroupsAreInFlightAtOnce) {
  const Group group = world();
  const Group mirror = group.split(0, -group.rank());  // the same ranks, in reverse order
  const int size = group.size();
  ASSERT_EQ(mirror.rank(), size - 1 - group.rank());
  struct Case {
    Group group;
    Tensor tensor;
    Work work;
    int64_t id;
  };
  std::vector<Case> cases;
  for (int64_t id = 0; id < 60; ++id) {
    const Group& used = id % 3 == 0 ? mirror : group;
    const int64_t count = id % 4 == 0 ? 3000 + id : 10 + id;
    Tensor tensor = Tensor::empty(kMemory, {count}, DType::kI64);
    std::fill_n(tensor.data<int64_t>(), count, id * 1000 + used.rank());
    Work work = id % 2 == 0 ? used.all_reduce("test.many", tensor)
                            : used.broadcast("test.many", tensor, static_cast<int>(id % size));
    cases.push_back({used, std::move(tensor), std::move(work), id});
  }
  while (!cases.empty()) {
    Case& last = cases.back();
    last.work.wait();
    EXPECT_TRUE(last.work.done());
    const int64_t expected = last.id % 2 == 0
                                 ? size * last.id * 1000 + int64_t{size} * (size - 1) / 2
                                 : last.id * 1000 + last.id % size;
    for (int64_t i = 0; i < last.tensor.numel(); ++i)
      ASSERT_EQ(last.tensor.data<int64_t>()[i], expected) << "operation " << last.id;
    cases.pop_back();
  }
}

TEST(Mesh, NeighboursShareASequence) {
  const Group group = world();
  for (int num_sp = 1; num_sp <= group.size(); ++num_sp) {
    if (group.size() % num_sp != 0) {
      EXPECT_THROW(Mesh::make(group, group.size() / num_sp, num_sp), Error);
      continue;
    }
    const Mesh mesh = Mesh::make(group, group.size() / num_sp, num_sp);
    EXPECT_EQ(mesh.sp.size(), num_sp);
    EXPECT_EQ(mesh.dp.size(), group.size() / num_sp);
    EXPECT_EQ(group.rank(), mesh.dp.rank() * num_sp + mesh.sp.rank());
    const int64_t sp_sum =
        mesh.sp.all_reduce_value("test.sp", int64_t{group.rank()}, ReduceOp::kSum);
    EXPECT_EQ(sp_sum, int64_t{mesh.dp.rank()} * num_sp * num_sp + num_sp * (num_sp - 1) / 2);
    const int64_t dp_sum =
        mesh.dp.all_reduce_value("test.dp", int64_t{group.rank()}, ReduceOp::kSum);
    const int64_t num_dp = mesh.dp.size();
    EXPECT_EQ(dp_sum, num_dp * mesh.sp.rank() + num_sp * num_dp * (num_dp - 1) / 2);
  }
}

TEST(Mesh, RefusesAxesBelowOne) {
  EXPECT_THROW(Mesh::make(world(), 0, world().size()), Error);
  EXPECT_THROW(Mesh::make(world(), -1, -world().size()), Error);
}

TEST(MutedGroup, CountsTheBytesOfTheRealOne) {
  const Group group = world();
  const Group silent = muted(group);
  const auto size = static_cast<size_t>(group.size());
  const std::vector<int64_t> rows(size, 3);
  group.reset_stats();
  for (const Group& used : {group, silent}) {
    const Tensor part = Tensor::zeros(kMemory, {3, 2}, DType::kF32);
    const Tensor all = Tensor::zeros(kMemory, {3 * group.size(), 2}, DType::kF32);
    used.all_gather("gather", part, all, rows).wait();
    used.all_to_all("a2a", all, rows, all.clone(), rows).wait();
    used.reduce_scatter("scatter", all, part, rows).wait();
    used.broadcast("broadcast", part, 0).wait();
    used.all_reduce("small", part).wait();
    used.all_reduce("large", Tensor::zeros(kMemory, {40009}, DType::kF32)).wait();
  }
  const CommStats expected = group.stats(), counted = silent.stats();
  ASSERT_EQ(counted.by_label.size(), expected.by_label.size());
  for (const auto& [label, entry] : expected.by_label) {
    EXPECT_EQ(counted.sent_bytes(label), entry.sent_bytes) << label;
    EXPECT_EQ(counted.by_label.at(label).num_calls, entry.num_calls) << label;
  }
}

}  // namespace
}  // namespace longship

LONGSHIP_MPI_TEST_MAIN()
