#include "data/line_reader.h"

#include <algorithm>
#include <span>

namespace longship {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;

}  // namespace

LineReader::LineReader(const std::string& path)
    : file_(FileDescriptor::open_for_reading(path)), file_size_(file_.size()) {}

bool LineReader::read_more() {
  const int64_t count = std::min(kPieceBytes, file_size_ - num_read_);
  if (count == 0) return false;
  buffer_.erase(0, begin_);
  begin_ = 0;
  const size_t old_size = buffer_.size();
  buffer_.resize(old_size + static_cast<size_t>(count));
  file_.read_at(num_read_, std::as_writable_bytes(std::span(buffer_)).subspan(old_size));
  num_read_ += count;
  return true;
}

bool LineReader::next(Line& line) {
  size_t searched = begin_;
  size_t end = buffer_.find('\n', searched);
  while (end == std::string::npos) {
    searched = buffer_.size() - begin_;
    if (!read_more()) break;
    end = buffer_.find('\n', searched);
  }
  line.is_terminated = end != std::string::npos;
  if (!line.is_terminated) end = buffer_.size();
  if (begin_ == end && !line.is_terminated) return false;
  line.text.assign(buffer_, begin_, end - begin_);
  line.number = ++num_lines_;
  line.offset = num_read_ - static_cast<int64_t>(buffer_.size() - begin_);
  begin_ = end + (line.is_terminated ? 1 : 0);
  return true;
}

}  // namespace longship
