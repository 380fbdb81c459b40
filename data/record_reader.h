// RecordReader: the records of many text files, one after the other.
#pragma once

#include <optional>
#include <vector>

#include "data/input_files.h"
#include "data/line_reader.h"
#include "data/source_record.h"

namespace longship {

class RecordReader {
 public:
  // The list must outlive the reader.
  explicit RecordReader(const std::vector<InputFile>& files) : files_(files) {}

  // A .txt file or a line of a .jsonl file that is not blank; none at the end. Throws
  // Error(kStorage) or Error(kCorrupt) when a file cannot be read or became shorter.
  std::optional<SourceRecord> next();

 private:
  const std::vector<InputFile>& files_;
  size_t num_begun_ = 0;
  std::optional<LineReader> lines_;  // of the file begun last
};

}  // namespace longship
