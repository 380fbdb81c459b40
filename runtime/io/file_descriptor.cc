#include "runtime/io/file_descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "runtime/error.h"
#include "runtime/io/file_error.h"

namespace longship {
namespace {

// Linux moves at most 0x7ffff000 bytes in one call.
constexpr size_t kMaxCallBytes = size_t{1} << 30;

int open_retrying(const std::filesystem::path& path, int flags) {
  while (true) {
    const int number = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    if (number >= 0 || errno != EINTR) return number;
  }
}

void sync_number(int number, const std::filesystem::path& path) {
  while (::fsync(number) != 0)
    if (errno != EINTR) throw_file_error("write to disk", path, errno);
}

template <class Call>
void write_all(std::span<const std::byte> bytes, const std::filesystem::path& path, Call&& call) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count =
        call(bytes.data() + done, std::min(bytes.size() - done, kMaxCallBytes), done);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) throw_file_error("write", path, count < 0 ? errno : ENOSPC);
    done += static_cast<size_t>(count);
  }
}

}  // namespace

FileDescriptor FileDescriptor::open_for_reading(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a named pipe must fail below, not wait for its writer.
  FileDescriptor file(open_retrying(path, O_RDONLY | O_NONBLOCK), path);
  if (!file.is_open()) throw_file_error("open", path, errno);
  struct stat status = {};
  if (::fstat(file.number_, &status) != 0) throw_file_error("inspect", path, errno);
  if (S_ISDIR(status.st_mode)) throw_file_error("read", path, EISDIR);
  if (!S_ISREG(status.st_mode))
    throw Error(ErrorCode::kStorage,
                {.what = fmt::format("cannot read {}", path.string()),
                 .expected = "a regular file",
                 .found = "a pipe, socket or device",
                 .next = "write the content to a file first and name that file"});
  return file;
}

FileDescriptor FileDescriptor::create(const std::filesystem::path& path) {
  FileDescriptor file(open_retrying(path, O_RDWR | O_CREAT | O_EXCL), path);
  if (!file.is_open()) throw_file_error("create", path, errno);
  return file;
}

FileDescriptor FileDescriptor::open_for_appending(const std::filesystem::path& path) {
  FileDescriptor file(open_retrying(path, O_RDWR | O_CREAT | O_APPEND), path);
  if (!file.is_open()) throw_file_error("open for writing", path, errno);
  return file;
}

FileDescriptor::~FileDescriptor() {
  if (is_open()) ::close(number_);
}

FileDescriptor::FileDescriptor(FileDescriptor&& other) noexcept
    : number_(std::exchange(other.number_, -1)), path_(std::move(other.path_)) {}

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (is_open()) ::close(number_);
    number_ = std::exchange(other.number_, -1);
    path_ = std::move(other.path_);
  }
  return *this;
}

int64_t FileDescriptor::size() const {
  struct stat status = {};
  if (::fstat(number_, &status) != 0) throw_file_error("inspect", path_, errno);
  return status.st_size;
}

void FileDescriptor::read_at(int64_t offset, std::span<std::byte> bytes) const {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t count =
        ::pread(number_, bytes.data() + done, std::min(bytes.size() - done, kMaxCallBytes),
                offset + static_cast<int64_t>(done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_file_error("read", path_, errno);
    if (count == 0)
      throw Error(ErrorCode::kCorrupt,
                  {.what = fmt::format("{} ends too early", path_.string()),
                   .expected = fmt::format("{} bytes at offset {}", bytes.size(), offset),
                   .found = fmt::format("{} bytes", done),
                   .next = "the file was cut off; restore it or make it again"});
    done += static_cast<size_t>(count);
  }
}

void FileDescriptor::write(std::span<const std::byte> bytes) const {
  write_all(bytes, path_, [&](const std::byte* data, size_t size, size_t) {
    return ::write(number_, data, size);
  });
}

void FileDescriptor::write_at(int64_t offset, std::span<const std::byte> bytes) const {
  write_all(bytes, path_, [&](const std::byte* data, size_t size, size_t done) {
    return ::pwrite(number_, data, size, offset + static_cast<int64_t>(done));
  });
}

void FileDescriptor::truncate(int64_t size) const {
  while (::ftruncate(number_, size) != 0)
    if (errno != EINTR) throw_file_error("shorten", path_, errno);
}

void FileDescriptor::sync() const {
  sync_number(number_, path_);
}

void FileDescriptor::close() {
  // After EINTR the descriptor is gone on Linux: a second close could hit another file.
  if (::close(std::exchange(number_, -1)) != 0 && errno != EINTR)
    throw_file_error("close", path_, errno);
}

void sync_directory(const std::filesystem::path& directory) {
  const std::filesystem::path& path = directory.empty() ? std::filesystem::path(".") : directory;
  const int number = open_retrying(path, O_RDONLY | O_DIRECTORY);
  if (number < 0) throw_file_error("open", path, errno);
  try {
    sync_number(number, path);
  } catch (...) {
    ::close(number);
    throw;
  }
  ::close(number);
}

}  // namespace longship
