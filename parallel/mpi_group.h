// The backend of a group whose ranks are MPI processes.
#pragma once

#include <memory>

#include "parallel/group_backend.h"
#include "parallel/mpi_engine.h"

namespace longship {

class MpiBackend final : public Group::Backend {
 public:
  MpiBackend(std::shared_ptr<MpiEngine> engine, std::shared_ptr<const MpiCommunicator> communicator,
             std::shared_ptr<CommRecorder> recorder);

  std::shared_ptr<Backend> split(int color, int key) override { return split_mpi(color, key); }
  std::shared_ptr<MpiBackend> split_mpi(int color, int key);
  Work exchange(std::string_view label, std::vector<P2P> batch) override;
  Work reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                      std::span<const int64_t> rows) override;
  Work all_reduce(std::string_view label, const Tensor& tensor, ReduceOp op) override;

  // Counts an operation that goes another way: a rank that has no message in it may not know that,
  // and issues it here.
  void skip_operation();

 private:
  // Counts the call, and gives the operation its number in this group.
  MpiOperation::Identity next_identity(std::string_view label, int64_t sent_bytes);
  Work submit(std::shared_ptr<MpiOperation> operation);

  std::shared_ptr<MpiEngine> engine_;
  std::shared_ptr<const MpiCommunicator> communicator_;
  int next_tag_ = 0;
};

}  // namespace longship
