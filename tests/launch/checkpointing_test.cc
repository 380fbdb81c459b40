#include "launch/checkpointing.h"

#include <gtest/gtest.h>

#include "runtime/checkpoint/checkpoint_writer.h"
#include "tests/support/expect_error.h"
#include "tests/support/op_check.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

// A checkpoint of these tensors.
Checkpoint written(const testing::TemporaryFolder& folder,
                   const std::vector<NamedTensor>& tensors) {
  AtomicDirectory directory(folder.path("step_00000001"));
  const std::vector<std::string> records = {write_part(directory.temporary_path(), 0, tensors)};
  commit_checkpoint(directory, {.step = 1}, records);
  return Checkpoint::open(folder.path("step_00000001"));
}

TEST(ReadWeights, TakesEveryTensorAndLeavesTheOptimizers) {
  const testing::TemporaryFolder folder;
  Context ctx;
  ParameterList saved(ctx, DType::kF32, 1), read(ctx, DType::kF32, 2);
  for (ParameterList* list : {&saved, &read}) {
    list->add("embed", {7, 3}, {}, false);
    list->add("norm", {3}, {}, false);
  }
  std::vector<NamedTensor> tensors = {{"optim.m.embed", ctx.zeros({7, 3}, DType::kBF16)}};
  for (const Parameter& parameter : saved.all())
    tensors.push_back({parameter.name, parameter.master});
  read_weights(written(folder, tensors), read, "there");
  for (size_t n = 0; n < 2; ++n)
    EXPECT_TRUE(testing::bitwise_equal(read.all()[n].master, saved.all()[n].master));
}

TEST(ReadWeights, NamesEveryTensorThatDoesNotFitAndReadsNone) {
  const testing::TemporaryFolder folder;
  Context ctx;
  ParameterList parameters(ctx, DType::kF32, 1);
  for (const char* name : {"embed", "fits", "head", "norm"})
    parameters.add(name, {3}, {Initializer::Kind::kConstant, 1.0}, false);
  const Checkpoint checkpoint = written(folder, {{"embed", ctx.zeros({4}, DType::kF32)},
                                                 {"fits", ctx.zeros({3}, DType::kF32)},
                                                 {"norm", ctx.zeros({3}, DType::kF64)},
                                                 {"bias", ctx.zeros({3}, DType::kF32)}});
  testing::expect_error(
      ErrorCode::kConfig,
      {"weights of there", "embed: fp32 [4] there, fp32 [3] here", "head: missing",
       "norm: fp64 [3] there, fp32 [3] here", "bias: not in this model"},
      [&] { read_weights(checkpoint, parameters, "there"); });
  EXPECT_EQ(*parameters.find("fits")->master.data<float>(), 1.0f);
}

}  // namespace
}  // namespace longship
