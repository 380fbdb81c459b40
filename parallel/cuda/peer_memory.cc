#include "parallel/cuda/peer_memory.h"

#include <cuda_runtime_api.h>

#include <cstring>

#include "parallel/cuda/cuda_driver.h"
#include "runtime/cuda/cuda_error.h"
#include "runtime/error.h"

namespace longship {

static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(PeerAddress::handle));

PeerMemory::~PeerMemory() {
  cudaSetDevice(gpu_.index);
  for (const auto& [owner, mappings] : mapped_)
    for (const auto& [id, mapping] : mappings) cudaIpcCloseMemHandle(mapping.begin);
}

PeerAddress PeerMemory::address_of(const void* own) {
  const uint64_t id = allocation_id_of(own);
  std::lock_guard lock(mutex_);
  auto known = own_.find(id);
  if (known == own_.end()) {
    const Allocation allocation = allocation_of(own);
    check_cuda(cudaSetDevice(gpu_.index), "use " + device_name(gpu_));
    cudaIpcMemHandle_t handle;
    check_cuda(cudaIpcGetMemHandle(&handle, reinterpret_cast<void*>(allocation.begin)),
               "offer memory to other processes");
    known = own_.emplace(id, PeerAddress{{}, id, allocation.begin, allocation.bytes, 0}).first;
    std::memcpy(known->second.handle.data(), &handle, sizeof handle);
  }
  PeerAddress address = known->second;
  address.offset =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(own) - address.allocation_begin);
  return address;
}

std::byte* PeerMemory::map(int owner, const PeerAddress& address) {
  LONGSHIP_CHECK(address.offset >= 0 && address.offset < address.allocation_bytes,
                 "offset {} in {} bytes of rank {}", address.offset, address.allocation_bytes,
                 owner);
  std::lock_guard lock(mutex_);
  auto& mappings = mapped_[owner];
  if (const auto known = mappings.find(address.allocation_id); known != mappings.end())
    return known->second.begin + address.offset;

  check_cuda(cudaSetDevice(gpu_.index), "use " + device_name(gpu_));
  const uint64_t begin = address.allocation_begin;
  const uint64_t end = begin + static_cast<uint64_t>(address.allocation_bytes);
  std::erase_if(mappings, [&](const auto& entry) {
    const Mapping& old = entry.second;
    const bool is_gone =
        old.owner_begin < end && begin < old.owner_begin + static_cast<uint64_t>(old.bytes);
    if (is_gone) check_cuda(cudaIpcCloseMemHandle(old.begin), "unmap memory of another process");
    return is_gone;
  });
  cudaIpcMemHandle_t handle;
  std::memcpy(&handle, address.handle.data(), sizeof handle);
  void* mapped = nullptr;
  check_cuda(cudaIpcOpenMemHandle(&mapped, handle, cudaIpcMemLazyEnablePeerAccess),
             fmt::format("map memory of rank {}", owner));
  mappings[address.allocation_id] = {static_cast<std::byte*>(mapped), begin,
                                     address.allocation_bytes};
  return static_cast<std::byte*>(mapped) + address.offset;
}

}  // namespace longship
