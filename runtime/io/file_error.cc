#include "runtime/io/file_error.h"

#include <cerrno>
#include <system_error>

#include "runtime/error.h"

namespace longship {
namespace {

std::string advice(const std::filesystem::path& path, int error_number) {
  switch (error_number) {
    case ENOSPC:
      return fmt::format("free space on the file system that holds {}",
                         path.parent_path().string());
    case EDQUOT:
      return "free space or ask for a larger quota: the disk quota of this user is used up";
    case EFBIG:
      return "raise the file size limit (`ulimit -f`), or use a file system without it";
    case EACCES:
    case EPERM:
      return "check owner and permissions of the path and of every folder above it";
    case EROFS:
      return "choose a folder on a file system that is mounted for writing";
    case ENOENT:
    case ENOTDIR:
      return "check the spelling of the path";
    case ELOOP:
      return "the path goes through a circle of symbolic links; remove one of them";
    case EISDIR:
      return "name a file, not a folder";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files (`ulimit -n`)";
    case EIO:
    case ESTALE:
      return "the disk or network file system failed; see the system log (`dmesg`)";
    default:
      return {};
  }
}

}  // namespace

void throw_file_error(std::string_view action, const std::filesystem::path& path,
                      int error_number) {
  throw Error(ErrorCode::kStorage, {.what = fmt::format("cannot {} {}", action, path.string()),
                                    .found = std::generic_category().message(error_number),
                                    .next = advice(path, error_number)});
}

}  // namespace longship
