// A file mapped into memory for reading; every access names its range and is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <type_traits>

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

  const std::filesystem::path& path() const { return path_; }
  int64_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }

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

  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace longship
