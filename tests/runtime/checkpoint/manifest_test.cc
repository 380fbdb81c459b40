#include "runtime/checkpoint/manifest.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "runtime/checkpoint/manifest.pb.h"
#include "runtime/io/checksum.h"
#include "runtime/io/file_descriptor.h"
#include "tests/support/expect_error.h"

namespace longship {
namespace {

using testing::expect_error;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// One file of 100 bytes with two tensors; "w" [2, 3] in two slices.
CheckpointContent example() {
  CheckpointContent content;
  content.header.step = 5;
  content.files = {{"part_00000.safetensors", 100, {7}}};
  content.tensors = {
      {"b", DType::kU8, {4}, {{{0}, {4}, 0, 0, 4, 1}}},
      {"w", DType::kF32, {2, 3}, {{{0, 0}, {2, 1}, 0, 8, 8, 2}, {{0, 1}, {2, 2}, 0, 16, 16, 3}}}};
  return content;
}

// A correct seal around a manifest that `change` made wrong.
std::string resealed(const std::function<void(manifest::Manifest&)>& change) {
  manifest::SealedManifest sealed;
  EXPECT_TRUE(sealed.ParseFromString(seal_manifest(example())));
  manifest::Manifest manifest;
  EXPECT_TRUE(manifest.ParseFromString(sealed.manifest()));
  change(manifest);
  sealed.set_manifest(manifest.SerializeAsString());
  sealed.set_xxh3(checksum(bytes_of(sealed.manifest())));
  return sealed.SerializeAsString();
}

TEST(Manifest, IsAcceptedWhenNothingIsWrong) {
  EXPECT_EQ(layout_problem(example()), "");
  const CheckpointContent content = unseal_manifest(seal_manifest(example()), "M");
  EXPECT_EQ(content.tensors[1].slices[1].begin, (Shape{0, 1}));
  EXPECT_EQ(content.tensors[1].slices[1].checksum, 3u);
  EXPECT_EQ(seal_manifest(content), seal_manifest(example()));
}

TEST(Manifest, OfANewerSchemaIsRefusedAsSuch) {
  expect_error(ErrorCode::kConfig, {"M", "newer Longship", "version 2"},
               [] { unseal_manifest(resealed([](auto& m) { m.set_schema_version(2); }), "M"); });
}

TEST(Manifest, WithoutASealIsRefused) {
  expect_error(ErrorCode::kCorrupt, {"M"}, [] { unseal_manifest("", "M"); });
  expect_error(ErrorCode::kCorrupt, {"M"}, [] { unseal_manifest("hello", "M"); });
  expect_error(ErrorCode::kCorrupt, {"M", "schema"},
               [] { unseal_manifest(resealed([](auto& m) { m.clear_schema_version(); }), "M"); });
  // An unknown field behind a correct seal.
  expect_error(ErrorCode::kCorrupt, {"M"},
               [] { unseal_manifest(seal_manifest(example()) + "\x18\x01", "M"); });
}

TEST(Manifest, WithAFalseStatementIsRefusedThoughItsChecksumIsRight) {
  struct Case {
    const char* named;
    std::function<void(manifest::Manifest&)> change;
  };
  const std::vector<Case> cases = {
      {"step is negative", [](auto& m) { m.set_step(-1); }},
      {"mesh", [](auto& m) { m.mutable_mesh()->set_sp(0); }},
      {"mesh", [](auto& m) { m.clear_mesh(); }},
      {"plain file name", [](auto& m) { m.mutable_files(0)->set_name("../../etc/passwd"); }},
      {"plain file name", [](auto& m) { m.mutable_files(0)->set_name("/etc/passwd"); }},
      {"plain file name", [](auto& m) { m.mutable_files(0)->set_name(".."); }},
      {"plain file name", [](auto& m) { m.mutable_files(0)->set_name(""); }},
      {"plain file name", [](auto& m) { m.mutable_files(0)->set_name(std::string("a\0b", 3)); }},
      {"listed twice", [](auto& m) { *m.add_files() = m.files(0); }},
      {"negative size", [](auto& m) { m.mutable_files(0)->set_num_bytes(-1); }},
      {"block checksums", [](auto& m) { m.mutable_files(0)->set_num_bytes(kMax); }},
      {"block checksums", [](auto& m) { m.mutable_files(0)->clear_block_xxh3(); }},
      {"out of order", [](auto& m) { m.mutable_tensors()->SwapElements(0, 1); }},
      {"listed twice", [](auto& m) { m.mutable_tensors(1)->set_name("b"); }},
      {"unknown dtype", [](auto& m) { m.mutable_tensors(0)->clear_dtype(); }},
      {"unknown dtype",
       [](auto& m) { m.mutable_tensors(0)->set_dtype(static_cast<manifest::DType>(77)); }},
      {"impossible shape", [](auto& m) { m.mutable_tensors(0)->set_shape(0, -4); }},
      {"impossible shape", [](auto& m) { m.mutable_tensors(1)->set_shape(0, kMax); }},
      {"missing", [](auto& m) { m.mutable_tensors(0)->set_shape(0, 5); }},
      {"missing", [](auto& m) { m.mutable_tensors(0)->clear_slices(); }},
      {"leaves the shape", [](auto& m) { m.mutable_tensors(0)->set_shape(0, 3); }},
      {"leaves the shape",
       [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_begin(0, 1); }},
      {"leaves the shape",
       [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_begin(0, -1); }},
      {"leaves the shape",
       [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_extent(0, kMax); }},
      {"another rank", [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->add_begin(0); }},
      {"another rank", [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->clear_extent(); }},
      {"length", [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_num_bytes(5); }},
      {"not listed", [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_file(1); }},
      {"outside part", [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_offset(97); }},
      {"outside part", [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_offset(-1); }},
      {"outside part", [](auto& m) { m.mutable_tensors(0)->mutable_slices(0)->set_offset(kMax); }},
      {"overlap", [](auto& m) { *m.mutable_tensors(0)->add_slices() = m.tensors(0).slices(0); }},
      {"overlap",  // as many elements as there should be, but some twice
       [](auto& m) {
         manifest::Slice& second = *m.mutable_tensors(1)->mutable_slices(1);
         second.set_begin(1, 0);
       }},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    expect_error(ErrorCode::kCorrupt, {"M", cases[i].named},
                 [&] { unseal_manifest(resealed(cases[i].change), "M"); });
  }
}

}  // namespace
}  // namespace longship
