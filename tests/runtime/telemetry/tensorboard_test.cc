#include "runtime/telemetry/tensorboard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "runtime/telemetry/event.pb.h"
#include "runtime/telemetry/tf_record.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_folder.h"

namespace longship {
namespace {

using testing::TemporaryFolder;

// Bit by bit, without a table: another way to the same number.
uint32_t slow_masked_crc(const std::string& bytes) {
  uint32_t crc = 0xffffffffu;
  for (char byte : bytes)
    for (int bit = 0; bit < 8; ++bit) {
      const uint32_t in = (static_cast<uint8_t>(byte) >> bit) & 1;
      crc = (crc >> 1) ^ (((crc & 1) ^ in) ? 0x82f63b78u : 0u);
    }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

// Undoes the framing and checks both sums of every record.
std::vector<std::string> records_of(const std::string& bytes) {
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    uint64_t length = 0;
    uint32_t length_crc = 0, data_crc = 0;
    std::memcpy(&length, bytes.data() + at, 8);
    std::memcpy(&length_crc, bytes.data() + at + 8, 4);
    EXPECT_EQ(length_crc, slow_masked_crc(bytes.substr(at, 8)));
    if (length > bytes.size() - at - 16) {
      ADD_FAILURE() << "record of " << length << " bytes at " << at;
      break;
    }
    records.push_back(bytes.substr(at + 12, length));
    std::memcpy(&data_crc, bytes.data() + at + 12 + length, 4);
    EXPECT_EQ(data_crc, slow_masked_crc(records.back()));
    at += 16 + length;
  }
  return records;
}

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Crc32c, GivesTheKnownAnswers) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);  // the check value of CRC-32C
  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising(32, '\0');
  for (size_t i = 0; i < 32; ++i) rising[i] = static_cast<char>(i);
  EXPECT_EQ(crc32c(rising), 0x46dd794eu);
}

TEST(TfRecord, FramesItsData) {
  const std::string data = "some data";
  const std::string record = tf_record(data);
  EXPECT_EQ(record.size(), data.size() + 16);
  EXPECT_EQ(records_of(record + tf_record("") + record),
            (std::vector<std::string>{data, "", data}));
}

TEST(TensorBoard, WritesEventsInTheFieldsOfTensorFlow) {
  const TemporaryFolder folder;
  TensorBoard board(folder.path("a/tb"), 6);
  board.append({.step = 7, .loss = 2.5});
  const std::vector<std::string> records = records_of(read(board.path()));
  ASSERT_EQ(records.size(), 3u);
  // Wire format by hand: field 1 double, then field 3 text.
  EXPECT_EQ(records[0][0], '\x09');
  EXPECT_EQ(records[0].substr(9),
            "\x1a\x0d"
            "brain.Event:2");
  // Field 2 step = 7, field 7 { field 1 = START }.
  EXPECT_EQ(records[1].substr(9), std::string("\x10\x07\x3a\x02\x08\x01", 6));
  // Field 2 step = 7, field 5 of two bytes of length { field 1 { field 1 tag, field 2 float 2.5 }
  // }.
  EXPECT_EQ(records[2].substr(9, 3), "\x10\x07\x2a");
  EXPECT_EQ(records[2].substr(14, 19), std::string("\x0a\x11\x0a\x0a"
                                                   "train/loss"
                                                   "\x15\x00\x00\x20\x40",
                                                   19));
}

TEST(TensorBoard, WritesAllMetricsOfAStepInOneEvent) {
  const TemporaryFolder folder;
  TensorBoard board(folder.path("tb"), 0);
  board.append({.step = 3,
                .loss = 1.5,
                .grad_norm = 0.5,
                .flops_per_s = 4e12,
                .mfu = 0.5,
                .validation_loss = 1.25});
  tensorboard::Event event;
  ASSERT_TRUE(event.ParseFromString(records_of(read(board.path())).back()));
  EXPECT_EQ(event.step(), 3);
  std::map<std::string, float> values;
  for (const auto& value : event.summary().value()) values[value.tag()] = value.simple_value();
  EXPECT_EQ(values.size(), 15u);
  EXPECT_EQ(values.at("train/loss"), 1.5f);
  EXPECT_EQ(values.at("train/grad_norm"), 0.5f);
  EXPECT_EQ(values.at("system/tflops_per_s"), 4.0f);
  EXPECT_EQ(values.at("system/mfu"), 0.5f);
  EXPECT_EQ(values.at("validation/loss"), 1.25f);
}

TEST(TensorBoard, StartsANewFileEachTime) {
  const TemporaryFolder folder;
  const TensorBoard a(folder.path("tb"), 0), b(folder.path("tb"), 0);
  EXPECT_NE(a.path(), b.path());
  EXPECT_NE(a.path().string().find("tfevents"), std::string::npos);
}

TEST(TensorBoard, NamesAFolderThatCannotBeCreated) {
  const TemporaryFolder folder;
  const std::string file = folder.write("tb", "a file");
  testing::expect_error(ErrorCode::kStorage, {file}, [&] { TensorBoard(file + "/x", 0); });
}

}  // namespace
}  // namespace longship
