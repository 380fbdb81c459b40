#include "launch/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "runtime/error.h"

namespace longship {
namespace {

std::string this_process() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  return fmt::format("host {} process {}", host.data(), getpid());
}

}  // namespace

RunLock::RunLock(const RunFolder& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder.root, error);
  if (error)
    throw Error(ErrorCode::kStorage, {.what = fmt::format("cannot create {}", folder.root),
                                      .found = error.message(),
                                      .next = "choose another output_dir"});
  const std::string path = folder.root + "/run.lock";
  descriptor_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0)
    throw Error(ErrorCode::kStorage, {.what = fmt::format("cannot write {}", path),
                                      .found = std::strerror(errno),
                                      .next = "check the permissions of output_dir"});
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    std::array<char, 512> holder{};
    const ssize_t length = pread(descriptor_, holder.data(), holder.size() - 1, 0);
    close(descriptor_);
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("another job is training in {}", folder.root),
                 .found = length > 0 ? std::string(holder.data()) : "its lock is held",
                 .next = "wait for it, stop it, or choose another output_dir"});
  }
  const std::string me = this_process();
  if (ftruncate(descriptor_, 0) != 0 ||
      pwrite(descriptor_, me.data(), me.size(), 0) != static_cast<ssize_t>(me.size()))
    throw Error(ErrorCode::kStorage,
                {.what = fmt::format("cannot write {}", path), .found = std::strerror(errno)});
}

RunLock::~RunLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace longship
