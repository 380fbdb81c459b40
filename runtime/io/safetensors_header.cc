#include "runtime/io/safetensors_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

namespace longship {
namespace {

using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "tensors are stored little-endian");

struct FormatDType {
  std::string_view name;
  int64_t size;
  std::optional<DType> dtype;
};

constexpr std::array<FormatDType, 15> kDTypes = {{{"F32", 4, DType::kF32},
                                                  {"BF16", 2, DType::kBF16},
                                                  {"F64", 8, DType::kF64},
                                                  {"I32", 4, DType::kI32},
                                                  {"I64", 8, DType::kI64},
                                                  {"U8", 1, DType::kU8},
                                                  {"F16", 2, std::nullopt},
                                                  {"BOOL", 1, std::nullopt},
                                                  {"I8", 1, std::nullopt},
                                                  {"I16", 2, std::nullopt},
                                                  {"U16", 2, std::nullopt},
                                                  {"U32", 4, std::nullopt},
                                                  {"U64", 8, std::nullopt},
                                                  {"F8_E4M3", 1, std::nullopt},
                                                  {"F8_E5M2", 1, std::nullopt}}};

// Names come from the file: shortened and without control characters they are safe to print.
std::string shown(std::string_view text) {
  std::string result(text.substr(0, 120));
  for (char& character : result)
    if (static_cast<unsigned char>(character) < 0x20 || character == 0x7f) character = '?';
  return text.size() > 120 ? result + "..." : result;
}

// Receives the parser's events and accepts exactly the shape of a safetensors header, so that no
// document tree is built and nesting is bounded.
class HeaderHandler : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderHandler(const std::filesystem::path& path) : path_(path) {}

  SafetensorsHeader take() { return std::move(header_); }

  [[noreturn]] void refuse(std::string expected, std::string found) const {
    std::string where = path_.string() + ": malformed safetensors header";
    if (place_ != Place::kStart && place_ != Place::kTop)
      where += fmt::format(", {} \"{}\"", place_ == Place::kMetadata ? "in" : "tensor",
                           shown(entry_.name));
    throw Error(ErrorCode::kCorrupt,
                {.what = std::move(where),
                 .expected = std::move(expected),
                 .found = std::move(found),
                 .next = "the file is damaged or not safetensors; download or write it again"});
  }

  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("true or false"); }
  bool number_integer(number_integer_t value) override { unexpected(fmt::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { unexpected(shown(text)); }
  bool binary(binary_t&) override { unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kShape && place_ != Place::kOffsets) unexpected(fmt::to_string(value));
    if (!std::in_range<int64_t>(value)) refuse("a number below 2^63", fmt::to_string(value));
    (place_ == Place::kShape ? entry_.shape : offsets_).push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      if (!header_.metadata.emplace(key_, value).second)
        refuse("unique keys", fmt::format("\"{}\" twice", shown(key_)));
    } else if (place_ == Place::kEntry && key_ == "dtype") {
      entry_.dtype_name = value;
    } else {
      unexpected(fmt::format("the text \"{}\"", shown(value)));
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) {
      place_ = Place::kTop;
    } else if (place_ == Place::kTop) {
      entry_ = {};
      entry_.name = key_;
      offsets_.clear();
      fields_.clear();
      place_ = key_ == "__metadata__" ? Place::kMetadata : Place::kEntry;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    key_ = value;
    if (place_ == Place::kTop && !names_.insert(value).second)
      refuse("unique names", fmt::format("\"{}\" twice", shown(value)));
    if (place_ == Place::kEntry) {
      if (value != "dtype" && value != "shape" && value != "data_offsets")
        refuse("the fields dtype, shape and data_offsets", fmt::format("\"{}\"", shown(value)));
      if (!fields_.insert(value).second) refuse("each field once", value + " twice");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kEntry) finish_entry();
    place_ = place_ == Place::kTop ? Place::kStart : Place::kTop;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kEntry || key_ == "dtype") unexpected("an array");
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    place_ = Place::kEntry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    refuse("JSON in UTF-8", fmt::format("an error at byte {} of the header", position));
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kEntry, kShape, kOffsets };

  [[noreturn]] void unexpected(std::string found) const {
    switch (place_) {
      case Place::kStart:
        refuse("an object", std::move(found));
      case Place::kTop:
        refuse(fmt::format("an object for \"{}\"", shown(key_)), std::move(found));
      case Place::kMetadata:
        refuse(fmt::format("text for \"{}\"", shown(key_)), std::move(found));
      case Place::kEntry:
        refuse(key_ == "dtype" ? "text for dtype" : "an array for " + key_, std::move(found));
      case Place::kShape:
      case Place::kOffsets:
        refuse("whole numbers from 0 in " + key_, std::move(found));
    }
    refuse("a header", std::move(found));
  }

  // Checks one tensor by itself; its place among the others is checked by check_layout().
  void finish_entry() {
    if (fields_.size() != 3)
      refuse("the fields dtype, shape and data_offsets", fmt::format("{} of them", fields_.size()));
    const auto* known = std::find_if(kDTypes.begin(), kDTypes.end(), [&](const FormatDType& one) {
      return one.name == entry_.dtype_name;
    });
    if (known == kDTypes.end())
      refuse("a dtype of the format", fmt::format("\"{}\"", shown(entry_.dtype_name)));
    entry_.dtype = known->dtype;
    if (offsets_.size() != 2)
      refuse("two numbers in data_offsets", fmt::format("{} numbers", offsets_.size()));
    int64_t bytes = known->size;
    for (int64_t extent : entry_.shape)
      if (__builtin_mul_overflow(bytes, extent, &bytes))
        refuse("a size below 2^63 bytes", "a shape whose product overflows");
    entry_.offset = offsets_[0];
    entry_.num_bytes = bytes;
    if (offsets_[1] < offsets_[0] || offsets_[1] - offsets_[0] != bytes)
      refuse(fmt::format("data_offsets that span {} bytes, as shape and dtype say", bytes),
             fmt::format("[{}, {}]", offsets_[0], offsets_[1]));
    header_.entries.push_back(std::move(entry_));
  }

  const std::filesystem::path& path_;
  SafetensorsHeader header_;
  Place place_ = Place::kStart;
  std::string key_;
  std::set<std::string> names_;
  SafetensorsEntry entry_;
  std::set<std::string> fields_;
  std::vector<int64_t> offsets_;
};

// Orders the entries and checks that they cover [0, data_bytes) without hole or overlap.
void check_layout(std::vector<SafetensorsEntry>& entries, int64_t data_bytes,
                  const std::filesystem::path& path) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
                     return std::pair(a.offset, a.num_bytes) < std::pair(b.offset, b.num_bytes);
                   });
  auto refuse = [&](std::string what, int64_t expected, int64_t found) {
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("{}: {}", path.string(), what),
                 .expected = fmt::format("offset {} of the tensor data", expected),
                 .found = fmt::format("offset {}", found),
                 .next = "the file is truncated or damaged; download or write it again"});
  };
  int64_t end = 0;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.offset != end)
      refuse(fmt::format("tensor \"{}\" {}", shown(entry.name),
                         entry.offset < end ? "overlaps the one before" : "follows a hole"),
             end, entry.offset);
    if (entry.num_bytes > data_bytes - end)
      refuse(fmt::format("tensor \"{}\" ends outside the file", shown(entry.name)), data_bytes,
             entry.offset + entry.num_bytes);
    end += entry.num_bytes;
  }
  if (end != data_bytes) refuse("bytes after the last tensor", end, data_bytes);
}

}  // namespace

std::string_view safetensors_dtype_name(DType dtype) {
  for (const FormatDType& one : kDTypes)
    if (one.dtype == dtype) return one.name;
  return {};
}

SafetensorsHeader parse_safetensors_header(std::string_view json, int64_t file_bytes,
                                           const std::filesystem::path& path) {
  HeaderHandler handler(path);
  // The JSON library takes a zero byte for the end of its input.
  if (!json.starts_with('{') || json.find('\0') != std::string_view::npos)
    handler.refuse("JSON that starts with {", "other bytes");
  Json::sax_parse(json, &handler);
  SafetensorsHeader header = handler.take();
  const int64_t data_begin = 8 + static_cast<int64_t>(json.size());
  check_layout(header.entries, file_bytes - data_begin, path);
  for (SafetensorsEntry& entry : header.entries) entry.offset += data_begin;
  return header;
}

std::string format_safetensors_header(const SafetensorsHeader& header) {
  Json json = Json::object();
  if (!header.metadata.empty()) json["__metadata__"] = header.metadata;
  for (const SafetensorsEntry& entry : header.entries)
    json[entry.name] = {{"dtype", entry.dtype_name},
                        {"shape", entry.shape},
                        {"data_offsets", {entry.offset, entry.offset + entry.num_bytes}}};
  std::string text(8, '\0');
  try {
    text += json.dump();
  } catch (const Json::exception&) {
    throw Error(ErrorCode::kConfig, {.what = "a tensor name or its metadata is not UTF-8",
                                     .next = "choose another name"});
  }
  text.append((64 - text.size() % 64) % 64, ' ');
  const uint64_t length = text.size() - 8;
  LONGSHIP_CHECK(static_cast<int64_t>(length) <= kMaxSafetensorsHeaderBytes,
                 "a safetensors header of {} bytes", length);
  std::memcpy(text.data(), &length, sizeof(length));
  return text;
}

}  // namespace longship
