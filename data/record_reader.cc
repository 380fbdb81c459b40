#include "data/record_reader.h"

#include <span>
#include <utility>

#include "runtime/io/file_descriptor.h"

namespace longship {
namespace {

SourceRecord whole_file(const std::string& path) {
  const FileDescriptor file = FileDescriptor::open_for_reading(path);
  SourceRecord record{.path = path, .bytes = {}};
  record.bytes.resize(static_cast<size_t>(file.size()));
  file.read_at(0, std::as_writable_bytes(std::span(record.bytes)));
  return record;
}

}  // namespace

std::optional<SourceRecord> RecordReader::next() {
  while (true) {
    Line line;
    while (lines_ && lines_->next(line)) {
      if (is_blank(line.text)) continue;
      return SourceRecord{.path = files_[num_begun_ - 1].path,
                          .format = TextFormat::kJsonLines,
                          .line = line.number,
                          .offset = line.offset,
                          .is_terminated = line.is_terminated,
                          .bytes = std::move(line.text)};
    }
    lines_.reset();
    if (num_begun_ == files_.size()) return std::nullopt;
    const InputFile& file = files_[num_begun_++];
    if (file.format == TextFormat::kPlain) return whole_file(file.path);
    lines_.emplace(file.path);
  }
}

}  // namespace longship
