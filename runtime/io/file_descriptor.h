// An open file that closes itself; short reads and writes and interrupts are handled here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace longship {

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Every failure throws Error(kStorage) naming the path.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  // An existing regular file.
  static FileDescriptor open_for_reading(const std::filesystem::path& path);
  // A new file; the path must not exist.
  static FileDescriptor create(const std::filesystem::path& path);
  // Opened or created for writes at its end.
  static FileDescriptor open_for_appending(const std::filesystem::path& path);

  ~FileDescriptor();
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;

  bool is_open() const { return number_ >= 0; }
  int number() const { return number_; }
  const std::filesystem::path& path() const { return path_; }
  int64_t size() const;

  // Fills `bytes` from `offset`. A file that ends earlier throws Error(kCorrupt).
  void read_at(int64_t offset, std::span<std::byte> bytes) const;
  // Writes all of `bytes` at the current position, or at `offset`.
  void write(std::span<const std::byte> bytes) const;
  void write_at(int64_t offset, std::span<const std::byte> bytes) const;
  void truncate(int64_t size) const;
  // Returns when the content is on the device.
  void sync() const;
  // Reports the errors that some file systems (NFS, quotas) only tell on closing.
  void close();

 private:
  FileDescriptor(int number, std::filesystem::path path)
      : number_(number), path_(std::move(path)) {}

  int number_ = -1;
  std::filesystem::path path_;
};

// Makes the names inside a folder durable: creations, renames, removals.
void sync_directory(const std::filesystem::path& directory);

}  // namespace longship
