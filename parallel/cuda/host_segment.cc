#include "parallel/cuda/host_segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

namespace longship {
namespace {

constexpr std::string_view kLabel = "gpu.host_segment";

// Null, and errno, where the system refuses.
std::byte* map_shared(const std::string& name, int flags, size_t bytes) {
  const int descriptor = shm_open(name.c_str(), flags, 0600);
  if (descriptor < 0) return nullptr;
  void* mapped = MAP_FAILED;
  if ((flags & O_CREAT) == 0 || ftruncate(descriptor, static_cast<off_t>(bytes)) == 0)
    mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  const int error = errno;
  close(descriptor);
  errno = error;
  return mapped == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapped);
}

}  // namespace

HostSegment::HostSegment(const Group& group, size_t bytes) : bytes_(bytes) {
  std::string name;
  int error = 0;
  if (group.rank() == 0) {
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    name = fmt::format("/longship.{}.{}", getpid(), now);
    data_ = map_shared(name, O_RDWR | O_CREAT | O_EXCL, bytes);
    if (data_ == nullptr) error = errno;
  }
  name = group.broadcast_bytes(kLabel, name, 0);
  if (group.rank() != 0) {
    data_ = map_shared(name, O_RDWR, bytes);
    if (data_ == nullptr) error = errno;
  }
  const int64_t worst = group.all_reduce_value(kLabel, int64_t{error}, ReduceOp::kMax);
  if (group.rank() == 0) shm_unlink(name.c_str());
  if (worst == 0) return;
  if (data_ != nullptr) munmap(data_, bytes_);
  throw Error(ErrorCode::kConfig,
              {.what = fmt::format("ranks of one host cannot share {} bytes of its memory", bytes),
               .found = std::strerror(static_cast<int>(worst)),
               .next = "make /dev/shm larger and common to all ranks of a host (in containers: "
                       "--ipc=host or --shm-size)"});
}

HostSegment::~HostSegment() {
  munmap(data_, bytes_);
}

}  // namespace longship
