#include "runtime/io/atomic_directory.h"

#include <fcntl.h>
#include <stdio.h>

#include <cerrno>
#include <system_error>

#include "runtime/error.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/file_descriptor.h"
#include "runtime/io/file_error.h"

namespace longship {
namespace {

namespace fs = std::filesystem;

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) throw_file_error("delete", path, error.value());
}

void sync_tree(const fs::path& root) {
  std::error_code error;
  fs::recursive_directory_iterator entry(root, error), end;
  if (error) throw_file_error("list", root, error.value());
  while (entry != end) {
    if (entry->is_regular_file(error)) FileDescriptor::open_for_reading(entry->path()).sync();
    if (entry->is_directory(error)) sync_directory(entry->path());
    entry.increment(error);
    if (error) throw_file_error("list", root, error.value());
  }
  sync_directory(root);
}

// Renames `from` to `to`; an error number, or 0.
int rename_directory(const fs::path& from, const fs::path& to, unsigned flags) {
  return ::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags) == 0 ? 0 : errno;
}

}  // namespace

AtomicDirectory::AtomicDirectory(fs::path path)
    : path_(path.has_filename() ? std::move(path) : path.parent_path()),
      temporary_path_(temporary_name(path_)) {
  std::error_code error;
  fs::create_directories(temporary_path_, error);
  if (error) throw_file_error("create", temporary_path_, error.value());
}

AtomicDirectory::~AtomicDirectory() {
  std::error_code ignored;
  if (pending_) fs::remove_all(temporary_path_, ignored);
}

void AtomicDirectory::commit(IfExists if_exists) {
  LONGSHIP_CHECK(pending_, "{} is committed twice", path_.string());
  sync_tree(temporary_path_);
  int failure = rename_directory(temporary_path_, path_, RENAME_NOREPLACE);
  // File systems without flags (NFS) answer EINVAL; a plain rename refuses a filled folder too.
  if (failure == EINVAL) failure = rename_directory(temporary_path_, path_, 0);
  const bool exists = failure == EEXIST || failure == ENOTEMPTY;
  if (exists && if_exists == IfExists::kRefuse)
    throw Error(ErrorCode::kStorage, {.what = fmt::format("{} exists already", path_.string()),
                                      .next = "choose another name, or move it away"});
  if (exists) {
    failure = rename_directory(temporary_path_, path_, RENAME_EXCHANGE);
    if (failure == EINVAL)
      throw Error(ErrorCode::kStorage,
                  {.what = fmt::format("{} exists already", path_.string()),
                   .found = "a file system that cannot swap two folders in one step",
                   .next = "move the existing folder away"});
  }
  if (failure != 0) throw_file_error("create", path_, failure);
  pending_ = false;
  sync_directory(path_.parent_path());
  if (exists) remove_tree(temporary_path_);
}

void remove_directory_atomically(const fs::path& directory) {
  const fs::path doomed = temporary_name(directory);
  const int failure = rename_directory(directory, doomed, 0);
  if (failure != 0) throw_file_error("delete", directory, failure);
  sync_directory(directory.parent_path());
  remove_tree(doomed);
}

}  // namespace longship
