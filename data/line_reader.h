// LineReader: a file line by line, in bounded pieces.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/io/file_descriptor.h"

namespace longship {

struct Line {
  std::string text;            // without its '\n'
  int64_t number = 0;          // from 1
  int64_t offset = 0;          // of its first byte in the file
  bool is_terminated = false;  // ended by '\n'; only the last line may not be
};

// Holds one piece and the longest line.
class LineReader {
 public:
  // Throws Error(kStorage) when the file cannot be read.
  explicit LineReader(const std::string& path);

  // False at the end. Throws Error(kCorrupt) when the file became shorter.
  bool next(Line& line);

 private:
  bool read_more();

  FileDescriptor file_;
  int64_t file_size_;
  int64_t num_read_ = 0;  // bytes of the file
  std::string buffer_;
  size_t begin_ = 0;  // of the next line in buffer_
  int64_t num_lines_ = 0;
};

}  // namespace longship
