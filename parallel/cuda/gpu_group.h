// The backend of a group whose ranks have a GPU each: tensors of the GPU travel from GPU to GPU,
// everything else through MPI. Which way an operation goes, its tensors decide.
#pragma once

#include <memory>

#include "parallel/cuda/gpu_link.h"
#include "parallel/group_backend.h"
#include "parallel/mpi_group.h"

namespace longship {

class GpuBackend final : public Group::Backend {
 public:
  // `hosts` are the same ranks over MPI; `link` is null for a single one. They share the counters.
  GpuBackend(std::shared_ptr<MpiBackend> hosts, std::shared_ptr<GpuComm> comm,
             std::shared_ptr<GpuLink> link);

  std::shared_ptr<Backend> split(int color, int key) override;
  Work exchange(std::string_view label, std::vector<P2P> batch) override;
  Work reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                      std::span<const int64_t> rows) override;
  Work all_reduce(std::string_view label, const Tensor& tensor, ReduceOp op) override;
  void settle_counters() override;

 private:
  // An operation between hosts: while this one waits for it, its GPU may run out of work.
  Work watched(Work between_hosts) const;
  // Room for what the other ranks send of `num_elements` elements, one padded row each.
  Tensor room_for_others(int64_t num_elements, DType dtype) const;
  P2P receive_from(int peer, const Tensor& others, int64_t num_elements) const;
  void reduce(ReduceOp op, const Tensor& own, const Tensor& others, const Tensor& out) const;
  // The blocks of `send` go to their ranks, and those for this rank arrive in `others`.
  std::vector<P2P> scatter(const Tensor& send, std::span<const int64_t> count,
                           const Tensor& others) const;

  std::shared_ptr<MpiBackend> hosts_;
  std::shared_ptr<GpuComm> comm_;
  std::shared_ptr<GpuLink> link_;
};

}  // namespace longship
