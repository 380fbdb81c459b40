#include "runtime/io/mapped_file.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "runtime/error.h"
#include "runtime/io/file_descriptor.h"
#include "runtime/io/file_error.h"

namespace longship {

MappedFile MappedFile::open(const std::filesystem::path& path) {
  const FileDescriptor file = FileDescriptor::open_for_reading(path);
  MappedFile mapped;
  mapped.path_ = path;
  mapped.size_ = file.size();
  if (mapped.size_ == 0) return mapped;
  void* data =
      ::mmap(nullptr, static_cast<size_t>(mapped.size_), PROT_READ, MAP_SHARED, file.number(), 0);
  if (data == MAP_FAILED) {
    const int error_number = errno;
    mapped.size_ = 0;
    throw_file_error("map", path, error_number);
  }
  mapped.data_ = static_cast<const std::byte*>(data);
  return mapped;
}

void MappedFile::unmap() noexcept {
  if (data_ != nullptr)
    ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));  // NOLINT: C interface
}

MappedFile::~MappedFile() {
  unmap();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

std::span<const std::byte> MappedFile::range(int64_t offset, int64_t length,
                                             std::string_view what) const {
  if (offset < 0 || length < 0 || offset > size_ || length > size_ - offset)
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("{}: {} lies outside the file", path_.string(), what),
                 .expected = fmt::format("a range inside its {} bytes", size_),
                 .found = fmt::format("offset {}, length {}", offset, length),
                 .next = "the file is truncated or damaged; restore it or make it again"});
  return {data_ + offset, static_cast<size_t>(length)};
}

const std::byte* MappedFile::checked_array(int64_t offset, int64_t count, int64_t size,
                                           int64_t alignment, std::string_view what) const {
  int64_t length = 0;
  if (__builtin_mul_overflow(count, size, &length)) length = -1;
  const std::byte* first = range(offset, length, what).data();
  if (offset % alignment != 0)
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("{}: {} is misaligned", path_.string(), what),
                 .expected = fmt::format("an offset that is a multiple of {}", alignment),
                 .found = fmt::format("offset {}", offset),
                 .next = "the file is damaged; restore it or make it again"});
  return first;
}

}  // namespace longship
