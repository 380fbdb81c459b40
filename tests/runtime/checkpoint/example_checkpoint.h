// A small checkpoint of three writers, with whole tensors and slices.
#pragma once

#include <string>
#include <vector>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_store.h"
#include "runtime/checkpoint/checkpoint_writer.h"
#include "runtime/context.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"

namespace longship::testing {

// What the checkpoint of `step` must hold, in the order of names.
inline std::vector<NamedTensor> example_tensors(Context& ctx, int64_t step) {
  const auto seed = static_cast<uint64_t>(step) * 10;
  const std::vector<int64_t> counter = {step};
  return {{"bias", random_tensor(ctx, {17}, seed + 1).to(DType::kF32)},
          {"counter", Tensor::from<int64_t>(ctx.memory, {}, counter)},
          {"empty", ctx.empty({3, 0}, DType::kF32)},
          {"half", random_tensor(ctx, {5, 3}, seed + 2).to(DType::kBF16)},
          {"shared", random_tensor(ctx, {7, 6, 2}, seed + 3)},
          {"view", random_tensor(ctx, {4, 9}, seed + 4).to(DType::kF32).transpose(0, 1)}};
}

inline CheckpointHeader example_header(int64_t step) {
  return {.step = step,
          .config_text = "model { layers: 2 }\n",
          .integers = {{"data.next_sample", 3 * step}, {"negative", -5}, {"a", 1}, {"b", 2}},
          .strings = {{"data.hash", "0123"}, {"empty", ""}},
          .dp = 1,
          .sp = 3,
          .versions = {{"longship", "0.1.0"}}};
}

// Slice [begin, begin + length) of dimension `dim`.
inline NamedSlice cut(const NamedTensor& whole, int dim, int64_t begin, int64_t length) {
  NamedSlice slice = {{whole.name, whole.tensor.slice(dim, begin, length)},
                      Shape(whole.tensor.shape().size(), 0),
                      whole.tensor.shape()};
  slice.begin[static_cast<size_t>(dim)] = begin;
  return slice;
}

// The records of all three parts, written into `folder`. "shared" is cut twice along its second
// dimension and once along its first.
inline std::vector<std::string> write_example_parts(const std::filesystem::path& folder,
                                                    int64_t step) {
  Context ctx;
  const std::vector<NamedTensor> t = example_tensors(ctx, step);
  const NamedTensor top = {"shared", t[4].tensor.slice(0, 0, 3)};
  NamedSlice left = cut(top, 1, 0, 2), right = cut(top, 1, 2, 4);
  left.global_shape = right.global_shape = t[4].tensor.shape();
  return {write_part(folder, 0, std::vector{t[0], t[1]}, std::vector{left}),
          write_part(folder, 1, std::vector{t[2], t[3]}, std::vector{cut(t[4], 0, 3, 4)}),
          write_part(folder, 2, std::vector{t[5]}, std::vector{right})};
}

// Writes and commits it; returns its folder.
inline std::filesystem::path write_example(const std::filesystem::path& root, int64_t step) {
  AtomicDirectory directory(root / checkpoint_name(step));
  const std::vector<std::string> records = write_example_parts(directory.temporary_path(), step);
  commit_checkpoint(directory, example_header(step), records);
  return directory.path();
}

// Reads every tensor of the example and compares it.
inline bool holds_example(const std::filesystem::path& folder, int64_t step) {
  const Checkpoint checkpoint = Checkpoint::open(folder);
  checkpoint.verify();
  Context ctx;
  bool same = checkpoint.header().step == step && checkpoint.tensors().size() == 6;
  for (const auto& [name, tensor] : example_tensors(ctx, step)) {
    const Tensor copy = ctx.empty(tensor.shape(), tensor.dtype());
    checkpoint.read(name, copy);
    same &= bitwise_equal(copy, tensor);
  }
  return same;
}

}  // namespace longship::testing
