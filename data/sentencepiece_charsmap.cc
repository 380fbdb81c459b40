#include "data/sentencepiece_charsmap.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace longship {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

// sentencepiece_model.proto: ModelProto.normalizer_spec and denormalizer_spec, and their
// precompiled_charsmap.
constexpr int kNormalizerSpec = 3;
constexpr int kDenormalizerSpec = 5;
constexpr int kCharsmap = 2;

// A unit of the double array of darts-clone (Yata): a leaf holds a value, any other unit the offset
// from its own index to its children, which are found by exclusive or with the next byte.
struct Unit {
  uint32_t bits;

  bool is_leaf() const { return bits >> 31 != 0; }
  bool has_leaf() const { return (bits >> 8 & 1) != 0; }
  uint32_t value() const { return bits & 0x7FFFFFFF; }
  uint32_t offset() const { return (bits >> 10) << ((bits & 0x200) >> 6); }
};

// A table is the bytes of the array, the array, and the texts its values point to, each ended by a
// zero byte. The array is safe when from no unit any byte leads outside, and every value is inside.
bool is_safe(std::string_view charsmap) {
  uint32_t array_bytes = 0;
  if (charsmap.size() < sizeof array_bytes) return false;
  std::memcpy(&array_bytes, charsmap.data(), sizeof array_bytes);
  charsmap.remove_prefix(sizeof array_bytes);
  if (array_bytes == 0 || array_bytes % sizeof(Unit) != 0 || array_bytes > charsmap.size())
    return false;
  std::vector<Unit> units(array_bytes / sizeof(Unit));
  std::memcpy(units.data(), charsmap.data(), array_bytes);
  const std::string_view texts = charsmap.substr(array_bytes);
  if (texts.empty() || texts.back() != '\0') return false;

  for (uint32_t i = 0; i < units.size(); ++i) {
    if (units[i].is_leaf()) continue;
    const uint32_t child = i ^ units[i].offset();
    if ((child | 0xFF) >= units.size()) return false;
    if (units[i].has_leaf() && units[child].value() >= texts.size()) return false;
  }
  return true;
}

bool read_bytes(CodedInputStream& input, std::string& bytes) {
  uint32_t size = 0;
  return input.ReadVarint32(&size) && size <= std::numeric_limits<int32_t>::max() &&
         input.ReadString(&bytes, static_cast<int>(size));
}

// Calls f(bytes) for every length-delimited field of a message; false when f says so.
template <class F>
bool for_each_field(std::string_view message, F&& f) {
  CodedInputStream input(reinterpret_cast<const uint8_t*>(message.data()),
                         static_cast<int>(message.size()));
  std::string bytes;
  while (const uint32_t tag = input.ReadTag()) {
    if (WireFormatLite::GetTagWireType(tag) != WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      if (!WireFormatLite::SkipField(&input, tag)) break;
    } else if (!read_bytes(input, bytes)) {
      break;
    } else if (!f(WireFormatLite::GetTagFieldNumber(tag), bytes)) {
      return false;
    }
  }
  return true;
}

}  // namespace

bool charsmaps_are_safe(std::span<const std::byte> model) {
  if (model.size() > std::numeric_limits<int32_t>::max()) return false;
  const std::string_view message(reinterpret_cast<const char*>(model.data()), model.size());
  return for_each_field(message, [](int field, const std::string& spec) {
    if (field != kNormalizerSpec && field != kDenormalizerSpec) return true;
    return for_each_field(spec, [](int inner, const std::string& charsmap) {
      return inner != kCharsmap || charsmap.empty() || is_safe(charsmap);
    });
  });
}

}  // namespace longship
