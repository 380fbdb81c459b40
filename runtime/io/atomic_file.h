// A file that appears under its name whole, or not at all: written as `<name>.tmp-<nonce>`, made
// durable, renamed.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>

#include "runtime/io/file_descriptor.h"

namespace longship {

// `<path>.tmp-<16 hex digits>`, different at every call.
std::filesystem::path temporary_name(const std::filesystem::path& path);
// Whether a name was made by temporary_name().
bool is_temporary_name(const std::filesystem::path& path);

// Errors are Error(kStorage) naming the path; the temporary file is removed then.
class AtomicFile {
 public:
  // Creates the temporary file beside `path`, whose folder must exist.
  explicit AtomicFile(std::filesystem::path path);
  // Without commit() nothing remains.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Appends. Each call is one system call: pass large pieces.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(bytes_of(text)); }
  // Overwrites bytes at `offset`, such as a header that is known last; the position for write()
  // stays.
  void write_at(int64_t offset, std::span<const std::byte> bytes);
  // Bytes appended so far.
  int64_t size() const { return size_; }

  // fsync, rename over `path` (an existing file is replaced), fsync of the folder.
  void commit();

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  int64_t size_ = 0;
  bool pending_ = true;
};

// Writes `content` as an AtomicFile and commits it.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

}  // namespace longship
