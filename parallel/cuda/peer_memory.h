// Memory of the GPUs of other processes on this host, mapped through CUDA IPC when it is first
// needed and kept mapped.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <type_traits>

#include "runtime/device.h"

namespace longship {

// A place in the memory of a process's GPU, as other processes are told it.
struct PeerAddress {
  std::array<std::byte, 64> handle = {};  // of the allocation: cudaIpcMemHandle_t
  uint64_t allocation_id = 0;
  uint64_t allocation_begin = 0;  // in the address space of its process
  int64_t allocation_bytes = 0;
  int64_t offset = 0;
};
static_assert(std::is_trivially_copyable_v<PeerAddress>);

// For any thread.
class PeerMemory {
 public:
  explicit PeerMemory(Device gpu) : gpu_(gpu) {}
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  // Of this process's own memory, for others.
  PeerAddress address_of(const void* own);
  // Where `address`, of the rank `owner` of the job, lies in this process. Allocations that the
  // owner has given back are unmapped when it uses their place again.
  std::byte* map(int owner, const PeerAddress& address);

 private:
  struct Mapping {
    std::byte* begin = nullptr;
    uint64_t owner_begin = 0;
    int64_t bytes = 0;
  };

  const Device gpu_;
  std::mutex mutex_;
  std::map<uint64_t, PeerAddress> own_;                // where allocations begin, by their id
  std::map<int, std::map<uint64_t, Mapping>> mapped_;  // by owner and allocation id
};

}  // namespace longship
