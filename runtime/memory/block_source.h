// Where blocks of memory come from: the host's heap, pinned host memory, a GPU, or nowhere (for
// planning). Asking a source is slow, so a BlockPool keeps what it got.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "runtime/cuda/stream.h"
#include "runtime/device.h"

namespace longship {

class BlockSource {
 public:
  virtual ~BlockSource() = default;

  virtual Device device() const = 0;
  // False: blocks are addresses only, to be counted and never read or written.
  virtual bool has_elements() const { return true; }
  // The stream in whose order blocks are used and reused; null where that is the host's own order.
  virtual std::shared_ptr<const Stream> stream() const { return nullptr; }
  // For messages: "host memory", "memory of GPU 0 (NVIDIA H200)".
  virtual std::string name() const = 0;
  // What the system says is left, such as "3.1 of 139.8 GiB free on the GPU"; may be empty.
  virtual std::string room() const { return {}; }

  // At least 64-byte aligned; null if there is none.
  virtual void* allocate(int64_t bytes) = 0;
  virtual void free(void* block) noexcept = 0;
  // Sets every byte, in the order of stream().
  virtual void fill(void* block, uint8_t value, int64_t bytes) = 0;
  // What is done in the order of stream() from now on comes after `events`.
  virtual void wait_for(std::span<const Event> events) = 0;
};

}  // namespace longship
