#include "runtime/io/mapped_file.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "runtime/error.h"
#include "runtime/io/file_error.h"

namespace longship {

MappedFile MappedFile::open(const std::filesystem::path& path) {
  MappedFile mapped;
  mapped.file_ = FileDescriptor::open_for_reading(path);
  mapped.opened_ = mapped.state();
  if (mapped.size() == 0) return mapped;
  void* data = ::mmap(nullptr, static_cast<size_t>(mapped.size()), PROT_READ, MAP_SHARED,
                      mapped.file_.number(), 0);
  if (data == MAP_FAILED) throw_file_error("map", path, errno);
  mapped.data_ = static_cast<const std::byte*>(data);
  return mapped;
}

void MappedFile::unmap() noexcept {
  if (data_ != nullptr)
    ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size()));  // NOLINT: C interface
}

MappedFile::~MappedFile() {
  unmap();
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : file_(std::move(other.file_)),
      opened_(std::exchange(other.opened_, {})),
      data_(std::exchange(other.data_, nullptr)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    file_ = std::move(other.file_);
    opened_ = std::exchange(other.opened_, {});
    data_ = std::exchange(other.data_, nullptr);
  }
  return *this;
}

MappedFile::State MappedFile::state() const {
  struct stat status = {};
  if (::fstat(file_.number(), &status) != 0) throw_file_error("inspect", path(), errno);
  return {.size = status.st_size,
          .modified_ns = int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
}

void MappedFile::check_unchanged() const {
  const State now = state();
  if (now == opened_) return;
  throw Error(ErrorCode::kCorrupt,
              {.what = fmt::format("{} changed while it was in use", path().string()),
               .expected = fmt::format("the {} bytes that were there when it was opened", size()),
               .found = now.size != size() ? fmt::format("{} bytes", now.size)
                                           : "a later time of modification",
               .next = "start again, and replace files by renaming instead of writing into them"});
}

std::span<const std::byte> MappedFile::range(int64_t offset, int64_t length,
                                             std::string_view what) const {
  if (offset < 0 || length < 0 || offset > size() || length > size() - offset)
    throw Error(ErrorCode::kCorrupt,
                {.what = fmt::format("{}: {} lies outside the file", path().string(), what),
                 .expected = fmt::format("a range inside its {} bytes", size()),
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
                {.what = fmt::format("{}: {} is misaligned", path().string(), what),
                 .expected = fmt::format("an offset that is a multiple of {}", alignment),
                 .found = fmt::format("offset {}", offset),
                 .next = "the file is damaged; restore it or make it again"});
  return first;
}

}  // namespace longship
