// How an all-reduce is cut into messages, the same over every transport.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace longship {

struct AllReducePlan {
  // Everyone sends everything to everyone and reduces it alike: one round of messages, not two.
  bool is_small = false;
  // Otherwise: the elements that each rank reduces for all.
  std::vector<int64_t> count;
  int64_t sent_bytes = 0;  // by this rank, as Group::all_reduce says
};

inline AllReducePlan all_reduce_plan(int rank, int size, int64_t num_elements,
                                     int64_t element_bytes) {
  constexpr int64_t kSmallBytes = 4096;
  AllReducePlan plan;
  const int64_t bytes = num_elements * element_bytes;
  plan.is_small = bytes <= kSmallBytes;
  plan.sent_bytes = (size - 1) * bytes;
  if (plan.is_small) return plan;
  for (int64_t r = 0; r < size; ++r)
    plan.count.push_back(num_elements * (r + 1) / size - num_elements * r / size);
  const int64_t own_bytes = plan.count[static_cast<size_t>(rank)] * element_bytes;
  plan.sent_bytes = bytes - own_bytes + (size - 1) * own_bytes;
  return plan;
}

}  // namespace longship
