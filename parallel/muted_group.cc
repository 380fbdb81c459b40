#include "parallel/muted_group.h"

#include "parallel/all_reduce_plan.h"
#include "parallel/group_backend.h"

namespace longship {
namespace {

class MutedBackend final : public Group::Backend {
 public:
  MutedBackend(int rank, int size, std::shared_ptr<CommRecorder> recorder, Group splitter)
      : Backend(rank, size, std::move(recorder)), splitter_(std::move(splitter)) {}

  // Ranks agree about the new groups by way of the real one.
  std::shared_ptr<Backend> split(int color, int key) override {
    const Group part = splitter_.split(color, key);
    return std::make_shared<MutedBackend>(part.rank(), part.size(), shared_recorder(), part);
  }
  Work exchange(std::string_view label, std::vector<P2P> batch) override {
    recorder().record_call(label, bytes_to_others(rank(), batch));
    return Work();
  }
  Work reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                      std::span<const int64_t>) override {
    recorder().record_call(label, send.num_bytes() - receive.num_bytes());
    return Work();
  }
  Work all_reduce(std::string_view label, const Tensor& tensor, ReduceOp) override {
    const AllReducePlan plan =
        all_reduce_plan(rank(), size(), tensor.numel(), dtype_size(tensor.dtype()));
    recorder().record_call(label, plan.sent_bytes);
    return Work();
  }

 private:
  Group splitter_;
};

}  // namespace

Group muted(const Group& group) {
  return Group(std::make_shared<MutedBackend>(group.rank(), group.size(),
                                              std::make_shared<CommRecorder>(), group));
}

}  // namespace longship
