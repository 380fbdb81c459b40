// A folder that appears under its name with everything in it, or not at all.
#pragma once

#include <filesystem>

namespace longship {

enum class IfExists { kRefuse, kReplace };

// Errors are Error(kStorage) naming the path.
class AtomicDirectory {
 public:
  // Creates the empty folder `<path>.tmp-<nonce>`; folders above `path` are created if missing.
  explicit AtomicDirectory(std::filesystem::path path);
  // Without commit() the temporary folder is removed with all that is in it.
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  // Where to put the content, until commit().
  const std::filesystem::path& temporary_path() const { return temporary_path_; }
  const std::filesystem::path& path() const { return path_; }

  // fsync of every file and folder inside, rename to path(), fsync of the parent. kReplace swaps
  // an existing path() with the new folder in one step and then deletes the old one.
  void commit(IfExists if_exists = IfExists::kRefuse);

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_path_;
  bool pending_ = true;
};

// Deletes a folder so that a crash half-way leaves only a temporary name behind.
void remove_directory_atomically(const std::filesystem::path& directory);

}  // namespace longship
