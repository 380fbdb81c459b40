#include "parallel/muted_group.h"

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
    int64_t sent_bytes = 0;
    for (const P2P& message : batch)
      if (message.kind == P2P::Kind::kSend && message.peer != rank())
        sent_bytes += message.tensor.num_bytes();
    recorder().record_call(label, sent_bytes);
    return Work();
  }
  Work reduce_scatter(std::string_view label, const Tensor& send, const Tensor& receive,
                      std::span<const int64_t>) override {
    recorder().record_call(label, send.num_bytes() - receive.num_bytes());
    return Work();
  }
  Work all_reduce(std::string_view label, const Tensor&, ReduceOp) override {
    recorder().record_call(label, 0);
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
