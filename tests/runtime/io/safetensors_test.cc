#include "runtime/io/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "runtime/context.h"
#include "runtime/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/gradient_check.h"
#include "tests/support/op_check.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::bitwise_equal;
using testing::expect_error;
using testing::TemporaryFolder;

// One tensor of every dtype, among them a scalar, an empty one and a transposed view.
std::vector<NamedTensor> examples(Context& ctx) {
  const std::vector<int64_t> numbers = {1, -2, int64_t{1} << 40};
  const std::vector<int32_t> words = {-7};
  const std::vector<uint8_t> bytes = {1, 2, 255};
  return {{"u8", Tensor::from<uint8_t>(ctx.memory, {3}, bytes)},
          {"model.weight", testing::random_tensor(ctx, {5, 7}, 1).to(DType::kF32)},
          {"half", testing::random_tensor(ctx, {3, 1, 3}, 2).to(DType::kBF16)},
          {"scalar", Tensor::from<int32_t>(ctx.memory, {}, words)},
          {"empty", ctx.empty({4, 0, 2}, DType::kF64)},
          {"transposed", testing::random_tensor(ctx, {4, 3}, 3).transpose(0, 1)},
          {"numbers \"quoted\" \xc3\xa9", Tensor::from<int64_t>(ctx.memory, {3}, numbers)}};
}

// Header length, header, `num_bytes` bytes of data.
std::string file_of(const std::string& json, size_t num_bytes) {
  const uint64_t length = json.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + json + std::string(num_bytes, '\1');
}

TEST(Safetensors, ReturnsWhatWasWritten) {
  const TemporaryFolder folder;
  Context ctx;
  const std::vector<NamedTensor> tensors = examples(ctx);
  write_safetensors(folder.path("a"), tensors, {{"format", "pt"}, {"note", "line\nbreak"}});
  const SafetensorsReader reader = SafetensorsReader::open(folder.path("a"));
  EXPECT_EQ(reader.entries().size(), tensors.size());
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  EXPECT_EQ(reader.metadata().at("note"), "line\nbreak");
  for (const auto& [name, tensor] : tensors) {
    ASSERT_NE(reader.find(name), nullptr) << name;
    EXPECT_EQ(reader.find(name)->dtype, tensor.dtype());
    const Tensor copy = ctx.empty(tensor.shape(), tensor.dtype());
    reader.read(name, copy);
    EXPECT_TRUE(bitwise_equal(copy, tensor)) << name;
  }
  EXPECT_EQ(folder.num_entries(), 1);
}

// The file is taken apart here by the text of the format, without the reader.
TEST(Safetensors, WritesTheFormatWithoutHolesAndAligned) {
  const TemporaryFolder folder;
  Context ctx;
  const std::vector<NamedTensor> tensors = examples(ctx);
  std::string observed;
  write_safetensors(folder.path("a"), tensors, {}, [&](std::span<const std::byte> bytes) {
    observed.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  const std::string file = folder.read("a");
  EXPECT_EQ(observed, file);
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  EXPECT_EQ((length + 8) % 64, 0u);
  const auto json = nlohmann::json::parse(file.substr(8, length));
  std::vector<std::pair<size_t, size_t>> ranges;
  for (const auto& [name, tensor] : tensors) {
    const auto entry = json.at(name);
    const size_t begin = entry.at("data_offsets")[0], end = entry.at("data_offsets")[1];
    EXPECT_EQ(entry.at("shape").get<Shape>(), tensor.shape());
    EXPECT_EQ(begin % static_cast<size_t>(dtype_size(tensor.dtype())), 0u) << name;
    const Tensor packed = tensor.contiguous();
    ASSERT_EQ(end - begin, static_cast<size_t>(packed.num_bytes()));
    EXPECT_EQ(std::memcmp(packed.raw(), file.data() + 8 + length + begin, end - begin), 0) << name;
    ranges.emplace_back(begin, end);
  }
  std::sort(ranges.begin(), ranges.end());
  size_t next = 0;
  for (const auto& [begin, end] : ranges) {
    EXPECT_EQ(begin, next);
    next = end;
  }
  EXPECT_EQ(file.size(), 8 + length + next);
  EXPECT_EQ(json.at("half").at("dtype"), "BF16");
}

TEST(Safetensors, ReadsAFileOfAnotherWriter) {
  const TemporaryFolder folder;
  Context ctx;
  // Fields in another order, entries not sorted, padding, a dtype that is not ours.
  const std::string json =
      R"( {"b":{"data_offsets":[4,6],"shape":[1],"dtype":"F16"},)"
      R"("a":{"shape":[1,1],"dtype":"F32","data_offsets":[0,4]},"__metadata__":{"k":"v"}}   )";
  const SafetensorsReader reader =
      SafetensorsReader::open(folder.write("a", file_of(json.substr(1), 6)));
  const Tensor a = ctx.zeros({1, 1}, DType::kF32);
  reader.read("a", a);
  uint32_t bits = 0;
  std::memcpy(&bits, a.raw(), 4);
  EXPECT_EQ(bits, 0x01010101u);
  EXPECT_FALSE(reader.find("b")->dtype.has_value());
  EXPECT_EQ(reader.find("b")->dtype_name, "F16");
  const Tensor b = ctx.zeros({1}, DType::kBF16);
  expect_error(ErrorCode::kConfig, {"\"b\"", "F16"},
               [&] { reader.read("b", b, DTypeConversion::kAllow); });
}

TEST(Safetensors, ConvertsFloatingDtypesOnlyWhenAsked) {
  const TemporaryFolder folder;
  Context ctx;
  const Tensor values = testing::random_tensor(ctx, {6, 5}, 9);
  const std::vector<int32_t> words = {3};
  const std::vector<DType> floating = {DType::kF32, DType::kBF16, DType::kF64};
  std::vector<NamedTensor> tensors = {{"int", Tensor::from<int32_t>(ctx.memory, {1}, words)}};
  for (DType dtype : floating)
    tensors.push_back({std::string(dtype_name(dtype)), values.to(dtype)});
  write_safetensors(folder.path("a"), tensors);
  const SafetensorsReader reader = SafetensorsReader::open(folder.path("a"));
  for (DType from : floating)
    for (DType to : floating) {
      const std::string name(dtype_name(from));
      const Tensor target = ctx.empty({5, 6}, to).transpose(0, 1);
      if (from != to)
        expect_error(ErrorCode::kConfig, {name, folder.path("a")},
                     [&] { reader.read(name, target); });
      reader.read(name, target, DTypeConversion::kAllow);
      EXPECT_TRUE(bitwise_equal(target, values.to(from).to(to))) << name;
    }
  expect_error(ErrorCode::kConfig, {"\"int\"", "I32"},
               [&] { reader.read("int", ctx.empty({1}, DType::kF32), DTypeConversion::kAllow); });
}

TEST(Safetensors, NamesTensorsThatDoNotFit) {
  const TemporaryFolder folder;
  Context ctx;
  write_safetensors(folder.path("a"),
                    std::vector<NamedTensor>{{"w", ctx.zeros({2, 3}, DType::kF32)}});
  const SafetensorsReader reader = SafetensorsReader::open(folder.path("a"));
  expect_error(ErrorCode::kConfig, {folder.path("a"), "\"v\""}, [&] {
    reader.read("v", ctx.empty({2, 3}, DType::kF32));
  });
  expect_error(ErrorCode::kConfig, {"\"w\"", "[3, 2]", "[2, 3]"}, [&] {
    reader.read("w", ctx.empty({3, 2}, DType::kF32));
  });
  const std::vector<NamedTensor> twice = {{"w", ctx.zeros({1}, DType::kF32)},
                                          {"w", ctx.zeros({1}, DType::kF32)}};
  expect_error(ErrorCode::kInternal, {"w"}, [&] { write_safetensors(folder.path("b"), twice); });
  const std::vector<NamedTensor> bad_name = {{"\xff", ctx.zeros({1}, DType::kF32)}};
  expect_error(ErrorCode::kConfig, {"UTF-8"},
               [&] { write_safetensors(folder.path("b"), bad_name); });
  EXPECT_EQ(folder.num_entries(), 1);
}

struct Malformed {
  std::string json;
  size_t num_bytes;
  std::string named;  // what the message must contain
};

TEST(Safetensors, RefusesEveryMalformedHeader) {
  const std::string big = "9223372036854775807";
  auto entry = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}}";
  };
  const std::vector<Malformed> cases = {
      {"", 0, "starts with {"},
      {"   {}", 0, "starts with {"},
      {"\xef\xbb\xbf{}", 0, "starts with {"},
      {"[]", 0, "starts with {"},
      {"{", 0, "JSON"},
      {"{}}", 0, "JSON"},
      {"{}{}", 0, "JSON"},
      {"{\"a\\u0000b\": 1}", 0, "an object"},
      {std::string("{}\0garbage", 10), 0, "other bytes"},
      {"{\"\xff\":{}}", 0, "byte 3"},
      {"{\"\xc3\":{}}", 0, "JSON"},
      {R"({"w":3})", 0, "\"w\""},
      {R"({"w":-3})", 0, "\"w\""},
      {R"({"w":null})", 0, "\"w\""},
      {R"({"w":true})", 0, "\"w\""},
      {R"({"w":"F32"})", 0, "\"w\""},
      {R"({"w":[]})", 0, "\"w\""},
      {R"({"w":{}})", 0, "0 of them"},
      {R"({"w":{"dtype":"F32","shape":[]}})", 4, "2 of them"},
      {R"({"w":{"dtype":"F32","shape":[],"data_offsets":[0,4],"x":1}})", 4, "\"x\""},
      {R"({"w":{"dtype":"F32","shape":[],"shape":[],"data_offsets":[0,4]}})", 4, "shape twice"},
      {R"({"w":{"dtype":["F32"],"shape":[],"data_offsets":[0,4]}})", 4, "text for dtype"},
      {R"({"w":{"dtype":"F32","shape":"[]","data_offsets":[0,4]}})", 4, "array for shape"},
      {R"({"w":{"dtype":"F32","shape":{},"data_offsets":[0,4]}})", 4, "array for shape"},
      {R"({"w":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "whole numbers"},
      {R"({"__metadata__":{"a":1}})", 0, "text for \"a\""},
      {R"({"__metadata__":{"a":{"b":"c"}}})", 0, "text for \"a\""},
      {R"({"__metadata__":{"a":"1","a":"2"}})", 0, "\"a\" twice"},
      {R"({"__metadata__":"a"})", 0, "__metadata__"},
      {entry("F33", "[1]", "[0,4]"), 4, "\"F33\""},
      {entry("f32", "[1]", "[0,4]"), 4, "\"f32\""},
      {entry("", "[1]", "[0,4]"), 4, "a dtype"},
      {entry("F32", "[-1]", "[0,4]"), 4, "-1"},
      {entry("F32", "[1.0]", "[0,4]"), 4, "1.0"},
      {entry("F32", "[1e0]", "[0,4]"), 4, "1e0"},
      {entry("F32", "[18446744073709551615]", "[0,4]"), 4, "2^63"},
      {entry("F32", "[99999999999999999999]", "[0,4]"), 4, "99999999999999999999"},
      {entry("F32", "[4194305,4194305,211106198978564]", "[0,4]"), 4, "overflows"},
      {entry("F32", "[" + big + "," + big + ",0]", "[0,0]"), 0, "overflows"},
      {entry("F32", "[" + big + "]", "[0,4]"), 4, "overflows"},
      {entry("F32", "[1]", "[]"), 4, "0 numbers"},
      {entry("F32", "[1]", "[0,4,4]"), 4, "3 numbers"},
      {entry("F32", "[1]", "[0,8]"), 8, "span 4 bytes"},
      {entry("F32", "[1]", "[4,0]"), 4, "span 4 bytes"},
      {entry("F32", "[1]", "[-4,0]"), 4, "-4"},
      {entry("F32", "[1]", "[0,4]"), 3, "ends outside"},
      {entry("F32", "[1]", "[0,4]"), 5, "bytes after"},
      {entry("F32", "[1]", "[4,8]"), 8, "hole"},
      {entry("F32", "[0]", "[" + big + "," + big + "]"), 0, "hole"},
      {entry("F32", "[1000000000]", "[0,4000000000]"), 4, "ends outside"},
      {R"({"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "overlaps"},
      {R"({"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("w":{"dtype":"F32","shape":[0],"data_offsets":[4,4]}})",
       8, "overlaps"},
      {R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
       2, "\"w\" twice"},
      {std::string(300'000, '['), 0, "starts with {"},
      {R"({"w":)" + std::string(300'000, '['), 0, "\"w\""},
      {"{\"" + std::string(100'000, 'n') + "\":1}", 0, "nnn..."},
  };
  const TemporaryFolder folder;
  for (const Malformed& one : cases) {
    SCOPED_TRACE(one.json.substr(0, 100));
    const std::string path = folder.write("a", file_of(one.json, one.num_bytes));
    expect_error(ErrorCode::kCorrupt, {path, one.named}, [&] { SafetensorsReader::open(path); });
  }
}

TEST(Safetensors, RefusesImpossibleHeaderLengths) {
  const TemporaryFolder folder;
  for (uint64_t length :
       {uint64_t{3}, uint64_t{1000}, uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{7}}) {
    std::string file = file_of("{}", 0);
    std::memcpy(file.data(), &length, 8);
    const std::string path = folder.write("a", file);
    expect_error(ErrorCode::kCorrupt, {path, "header length"},
                 [&] { SafetensorsReader::open(path); });
  }
  // A large file may still not have a header of more than 100 MB.
  std::string file = file_of("{}", 0);
  const uint64_t length = kMaxSafetensorsHeaderBytes + 1;
  std::memcpy(file.data(), &length, 8);
  const std::string path = folder.write("a", file);
  std::filesystem::resize_file(path, 300'000'000);
  expect_error(ErrorCode::kCorrupt, {"at most 100000000"}, [&] { SafetensorsReader::open(path); });
}

TEST(Safetensors, RefusesEveryTruncation) {
  const TemporaryFolder folder;
  Context ctx;
  write_safetensors(folder.path("a"), examples(ctx));
  const std::string path = folder.path("a");
  for (int64_t size = static_cast<int64_t>(folder.read("a").size()) - 1; size >= 0; size -= 3) {
    std::filesystem::resize_file(path, static_cast<uint64_t>(size));
    expect_error(ErrorCode::kCorrupt, {path}, [&] { SafetensorsReader::open(path); });
  }
}

// Whatever a byte of the header becomes: either it is refused as corrupt, or it is a valid header
// (another name, say) whose tensors lie inside the file.
TEST(Safetensors, SurvivesAnyChangedByte) {
  const TemporaryFolder folder;
  Context ctx;
  write_safetensors(folder.path("a"), examples(ctx));
  const std::string file = folder.read("a");
  const auto file_bytes = static_cast<int64_t>(file.size());
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  const std::string json = file.substr(8, length);
  int64_t num_refused = 0, num_valid = 0;
  for (size_t at = 0; at < length; ++at)
    for (uint64_t probe = 0; probe < 8; ++probe) {
      std::string changed = json;
      changed[at] = static_cast<char>(uniform_index(5, at, probe, 256));
      try {
        int64_t end = 8 + static_cast<int64_t>(length);
        for (const SafetensorsEntry& entry :
             parse_safetensors_header(changed, file_bytes, "a").entries) {
          ASSERT_GE(entry.offset, 8 + static_cast<int64_t>(length));
          ASSERT_GE(entry.num_bytes, 0);
          ASSERT_LE(entry.num_bytes, file_bytes - entry.offset);
          if (entry.dtype) {
            ASSERT_EQ(entry.num_bytes, num_elements(entry.shape) * dtype_size(*entry.dtype));
          }
          end = entry.offset + entry.num_bytes;
        }
        ASSERT_EQ(end, file_bytes);
        ++num_valid;
      } catch (const Error& error) {
        ASSERT_EQ(error.code(), ErrorCode::kCorrupt) << error.what();
        ++num_refused;
      }
    }
  EXPECT_GT(num_refused, 2000);
  EXPECT_GT(num_valid, 50);
}

}  // namespace
}  // namespace longship
