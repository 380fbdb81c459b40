#include "runtime/checkpoint/flat_slices.h"

#include <gtest/gtest.h>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_store.h"
#include "runtime/context.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

const Shape kShape = {3, 4, 5};

TEST(FlatSlices, AreTheElementsOfTheRunInTheirPlaces) {
  Context ctx;
  const Tensor whole = testing::random_tensor(ctx, kShape, 1).to(DType::kF32);
  for (int64_t begin = 0; begin <= whole.numel(); ++begin)
    for (int64_t end = begin; end <= whole.numel(); ++end) {
      const Tensor found = ctx.zeros(kShape, DType::kF32);
      const NamedTensor piece{"w", whole.reshape({-1}).slice(0, begin, end - begin)};
      const std::vector<NamedSlice> slices = flat_slices(piece, begin, kShape);
      EXPECT_LE(slices.size(), 5u);
      for (const NamedSlice& slice : slices) {
        Tensor box = found;
        for (size_t dim = 0; dim < kShape.size(); ++dim)
          box = box.slice(static_cast<int>(dim), slice.begin[dim], slice.slice.tensor.shape()[dim]);
        box.copy_from(slice.slice.tensor);
      }
      const Tensor expected = ctx.zeros(kShape, DType::kF32);
      expected.reshape({-1}).slice(0, begin, end - begin).copy_from(piece.tensor);
      EXPECT_TRUE(testing::bitwise_equal(found, expected)) << begin << " to " << end;
    }
}

TEST(FlatSlices, OfWholeTensorsAreOneEach) {
  Context ctx;
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{2, 3}, Shape{4, 1, 5}}) {
    const Tensor whole = testing::random_tensor(ctx, shape, 2);
    const auto slices = flat_slices({"w", whole.reshape({-1})}, 0, shape);
    ASSERT_EQ(slices.size(), 1u);
    EXPECT_EQ(slices[0].slice.tensor.shape(), shape);
  }
}

TEST(FlatSlices, OfSeveralWritersAreReadInAnyRuns) {
  testing::TemporaryFolder folder;
  Context ctx;
  const Tensor whole = testing::random_tensor(ctx, kShape, 3).to(DType::kF32);
  const Tensor flat = whole.reshape({-1});
  const std::vector<int64_t> cuts = {0, 13, 13, 41, 60};
  AtomicDirectory directory(folder.path("step_00000001"));
  std::vector<std::string> records;
  for (size_t part = 0; part + 1 < cuts.size(); ++part)
    records.push_back(
        write_part(directory.temporary_path(), static_cast<int64_t>(part), {},
                   flat_slices({"w", flat.slice(0, cuts[part], cuts[part + 1] - cuts[part])},
                               cuts[part], kShape)));
  commit_checkpoint(directory, {.step = 1}, records);
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  checkpoint.verify();
  const Tensor all = ctx.empty(kShape, DType::kF32);
  checkpoint.read("w", all);
  EXPECT_TRUE(testing::bitwise_equal(all, whole));
  for (int64_t begin = 0; begin <= 60; begin += 7)
    for (int64_t end = begin; end <= 60; end += 3) {
      const Tensor run = ctx.empty({end - begin}, DType::kF32);
      checkpoint.read_run("w", kShape, begin, run);
      EXPECT_TRUE(testing::bitwise_equal(run, flat.slice(0, begin, end - begin)));
    }
}

}  // namespace
}  // namespace longship
