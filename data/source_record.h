// SourceRecord: the bytes of a whole .txt file or of one line of a .jsonl file, and the documents
// that they hold.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/input_files.h"

namespace longship {

// Nothing but ASCII white space.
inline bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\n\v\f\r") == std::string_view::npos;
}

struct RecordOptions {
  std::string split_on;
  std::string text_field;
  std::string prompt_field;
  bool allow_invalid_utf8 = false;
};

struct SourceDocument {
  std::string_view text;
  std::string_view prompt;  // goes before the text
};

struct SourceRecord {
  std::string path;
  TextFormat format = TextFormat::kPlain;
  int64_t line = 1;           // where it begins
  int64_t offset = 0;         // in bytes
  bool is_terminated = true;  // by the end of its line
  std::string bytes;
};

// Plain text loses a byte order mark, gets "\n" for "\r\n", and is cut at each split_on; a JSON
// line gives its text and prompt fields. Documents may be empty.
class ParsedRecord {
 public:
  // Throws Error(kCorrupt) naming file, line and byte.
  ParsedRecord(SourceRecord record, const RecordOptions& options);

  // Valid as long as this object stays where it is.
  std::vector<SourceDocument> documents() const;
  int64_t num_replaced() const { return num_replaced_; }  // bad UTF-8 sequences

 private:
  void require_utf8(SourceRecord& record, const RecordOptions& options);
  void parse_plain(SourceRecord& record);
  void parse_json(const SourceRecord& record, const RecordOptions& options);

  std::string text_;
  std::string prompt_;
  std::string split_on_;
  int64_t num_replaced_ = 0;
};

}  // namespace longship
