// Memory that the ranks of one host share.
#pragma once

#include <cstddef>

#include "parallel/group.h"

namespace longship {

class HostSegment {
 public:
  // Collective over `group`, all of one host: `bytes` bytes, zero at first, for every rank. Throws
  // Error(kConfig) on every rank if one cannot map it.
  HostSegment(const Group& group, size_t bytes);
  ~HostSegment();
  HostSegment(const HostSegment&) = delete;
  HostSegment& operator=(const HostSegment&) = delete;

  std::byte* data() const { return data_; }  // aligned to a page

 private:
  size_t bytes_;
  std::byte* data_ = nullptr;
};

}  // namespace longship
