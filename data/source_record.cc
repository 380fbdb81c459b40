#include "data/source_record.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/utf8.h"
#include "runtime/error.h"

namespace longship {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_utf16(std::string_view bytes) {
  return bytes.starts_with("\xFF\xFE") || bytes.starts_with("\xFE\xFF");
}

// nlohmann's messages begin with "[json.exception.parse_error.101] ".
std::string json_message(const nlohmann::json::exception& error) {
  const std::string_view text = error.what();
  const size_t end = text.find("] ");
  return std::string(end == std::string_view::npos ? text : text.substr(end + 2));
}

std::string field_names(const nlohmann::json& object) {
  constexpr size_t kMostNames = 10;
  std::string names;
  size_t count = 0;
  for (const auto& [name, value] : object.items()) {
    if (++count > kMostNames) return names + ", ...";
    names += (names.empty() ? "" : ", ") + name;
  }
  return names.empty() ? "an empty object" : "the fields " + names;
}

}  // namespace

ParsedRecord::ParsedRecord(SourceRecord record, const RecordOptions& options)
    : split_on_(options.split_on) {
  require_utf8(record, options);
  if (record.format == TextFormat::kPlain)
    parse_plain(record);
  else
    parse_json(record, options);
}

void ParsedRecord::require_utf8(SourceRecord& record, const RecordOptions& options) {
  const std::string_view bytes = record.bytes;
  const size_t bad = find_invalid_utf8(bytes);
  if (bad < bytes.size()) {
    if (!options.allow_invalid_utf8)
      throw Error(
          ErrorCode::kCorrupt,
          {.what = fmt::format(
               "{}:{}: not valid UTF-8", record.path,
               record.line +
                   std::count(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(bad), '\n')),
           .expected = "text in UTF-8",
           .found = fmt::format("byte {:#04x} at offset {} of the file",
                                static_cast<uint8_t>(bytes[bad]),
                                record.offset + static_cast<int64_t>(bad)),
           .next = record.offset == 0 && is_utf16(bytes)
                       ? "the file looks like UTF-16: convert it, as by `iconv -f UTF-16 -t UTF-8`"
                       : "convert the file to UTF-8, or replace bad bytes with "
                         "--allow-invalid-utf8"});
    record.bytes = replace_invalid_utf8(bytes, num_replaced_);
  }
  if (record.offset == 0 && record.bytes.starts_with(kByteOrderMark))
    record.bytes.erase(0, kByteOrderMark.size());
}

void ParsedRecord::parse_plain(SourceRecord& record) {
  text_ = std::move(record.bytes);
  size_t kept = text_.find("\r\n");
  if (kept == std::string::npos) return;
  for (size_t i = kept; i < text_.size(); ++i)
    if (text_[i] != '\r' || i + 1 == text_.size() || text_[i + 1] != '\n') text_[kept++] = text_[i];
  text_.resize(kept);
}

void ParsedRecord::parse_json(const SourceRecord& record, const RecordOptions& options) {
  const std::string place = fmt::format("{}:{}", record.path, record.line);
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(record.bytes);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("{}: not a JSON line", place),
                 .expected = "one complete JSON object",
                 .found = json_message(error),
                 .next = record.is_terminated
                             ? "correct the line, or remove it"
                             : "the last line has no end: the file seems cut off; fetch it again"});
  }
  auto read = [&](const std::string& field, bool is_required) -> std::string {
    const auto value = object.find(field);
    if (value == object.end() && !is_required) return {};
    if (value == object.end() || !value->is_string())
      throw Error(ErrorCode::kCorrupt,
                  {.what = fmt::format("{}: field `{}`", place, field),
                   .expected = "a string",
                   .found = value == object.end() ? "no such field among " + field_names(object)
                                                  : std::string(value->type_name()),
                   .next = "correct the line, or name the field that holds the text"});
    return std::move(value->get_ref<std::string&>());
  };
  if (!object.is_object())
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("{}: not a JSON object", place),
                 .expected = fmt::format("an object with the field `{}`", options.text_field),
                 .found = object.type_name()});
  text_ = read(options.text_field, true);
  if (!options.prompt_field.empty()) prompt_ = read(options.prompt_field, false);
  split_on_.clear();
}

std::vector<SourceDocument> ParsedRecord::documents() const {
  std::vector<SourceDocument> documents;
  std::string_view rest = text_;
  while (!split_on_.empty()) {
    const size_t end = rest.find(split_on_);
    if (end == std::string_view::npos) break;
    documents.push_back({.text = rest.substr(0, end), .prompt = {}});
    rest.remove_prefix(end + split_on_.size());
  }
  // What follows the last separator is a document only if there is something.
  if (documents.empty() || !rest.empty()) documents.push_back({.text = rest, .prompt = prompt_});
  return documents;
}

}  // namespace longship
