// A file mapped into memory for reading; every access names its range and is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <type_traits>

#include "runtime/io/file_descriptor.h"

namespace longship {

class MappedFile {
 public:
  // Throws Error(kStorage) when the file is missing, unreadable or not a regular file. The mapping
  // has the size of the file at this moment; an empty file gives an empty mapping.
  static MappedFile open(const std::filesystem::path& path);

  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::filesystem::path& path() const { return file_.path(); }
  int64_t size() const { return opened_.size; }
  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(size())}; }

  // Throws Error(kCorrupt) when the file was written to or cut off since open(): the mapping would
  // show other bytes, or reading it would kill the process (SIGBUS). Costs one fstat.
  void check_unchanged() const;

  // Bytes [offset, offset + length). A range that is negative, overflows or leaves the file throws
  // Error(kCorrupt) naming the path, `what` ("document index") and the range.
  std::span<const std::byte> range(int64_t offset, int64_t length, std::string_view what) const;

  // `count` values of T from `offset`, which must be a multiple of T's alignment; same errors.
  template <class T>
  std::span<const T> array(int64_t offset, int64_t count, std::string_view what) const {
    static_assert(std::is_trivially_copyable_v<T>);
    const std::byte* first = checked_array(offset, count, sizeof(T), alignof(T), what);
    return {reinterpret_cast<const T*>(first), static_cast<size_t>(count)};
  }

 private:
  const std::byte* checked_array(int64_t offset, int64_t count, int64_t size, int64_t alignment,
                                 std::string_view what) const;
  void unmap() noexcept;

  // When and how large the file was last written, from fstat.
  struct State {
    int64_t size = 0;
    int64_t modified_ns = 0;
    bool operator==(const State&) const = default;
  };
  State state() const;

  FileDescriptor file_;
  State opened_;
  const std::byte* data_ = nullptr;
};

}  // namespace longship
