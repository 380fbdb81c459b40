// The backend of a group of one rank: collectives are local copies or nothing, and already done.
#pragma once

#include "parallel/group_backend.h"

namespace longship {

class SelfBackend final : public Group::Backend {
 public:
  explicit SelfBackend(std::shared_ptr<CommRecorder> recorder)
      : Backend(0, 1, std::move(recorder)) {}

  std::shared_ptr<Backend> split(int color, int key) override;
  Work exchange(std::string_view label, std::vector<P2P> batch) override;
  Work reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                      std::span<const int64_t> rows) override;
  Work all_reduce(std::string_view label, const Tensor& tensor, ReduceOp op) override;
};

}  // namespace longship
