#include "runtime/io/atomic_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <string>

#include "runtime/error.h"
#include "runtime/io/file_error.h"

namespace longship {
namespace {

constexpr std::string_view kTemporaryMark = ".tmp-";
constexpr size_t kNonceDigits = 16;

}  // namespace

std::filesystem::path temporary_name(const std::filesystem::path& path) {
  std::random_device device;
  const uint64_t nonce = uint64_t{device()} << 32 | device();
  return path.string() + fmt::format("{}{:016x}", kTemporaryMark, nonce);
}

bool is_temporary_name(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  const size_t tail = kTemporaryMark.size() + kNonceDigits;
  if (name.size() <= tail) return false;
  const std::string_view end = std::string_view(name).substr(name.size() - tail);
  const std::string_view nonce = end.substr(kTemporaryMark.size());
  return end.starts_with(kTemporaryMark) && std::all_of(nonce.begin(), nonce.end(), [](char digit) {
           return (digit >= '0' && digit <= '9') || (digit >= 'a' && digit <= 'f');
         });
}

AtomicFile::AtomicFile(std::filesystem::path path)
    : path_(std::move(path)), file_(FileDescriptor::create(temporary_name(path_))) {}

AtomicFile::~AtomicFile() {
  if (pending_) ::unlink(file_.path().c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  file_.write(bytes);
  size_ += static_cast<int64_t>(bytes.size());
}

void AtomicFile::write_at(int64_t offset, std::span<const std::byte> bytes) {
  LONGSHIP_CHECK(offset >= 0 && offset + static_cast<int64_t>(bytes.size()) <= size_,
                 "{} bytes at offset {} of {} written", bytes.size(), offset, size_);
  file_.write_at(offset, bytes);
}

void AtomicFile::commit() {
  LONGSHIP_CHECK(pending_, "{} is committed twice", path_.string());
  file_.sync();
  file_.close();
  if (::rename(file_.path().c_str(), path_.c_str()) != 0) throw_file_error("create", path_, errno);
  pending_ = false;
  sync_directory(path_.parent_path());
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

}  // namespace longship
