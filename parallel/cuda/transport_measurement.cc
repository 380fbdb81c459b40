#include "parallel/cuda/transport_measurement.h"

namespace longship {
namespace {

constexpr std::string_view kLabel = "gpu.measurement";
constexpr int64_t kSmallestBytes = 4096;

// Seconds of one exchange among many, by the GPU's clock; the slowest rank's.
double exchange_s(const Group& hosts, GpuLink& link, Transport transport, const Tensor& out,
                  const Tensor& in) {
  constexpr int kWarmUps = 3, kRounds = 10;
  const int next = (hosts.rank() + 1) % hosts.size();
  const int previous = (hosts.rank() + hosts.size() - 1) % hosts.size();
  Event begin;
  for (int round = 0; round < kWarmUps + kRounds; ++round) {
    if (round == kWarmUps) {
      link.stream()->synchronize();
      hosts.barrier(kLabel);
      begin = link.stream()->record_time();
    }
    auto operation = link.begin(kLabel, {out, in});
    link.exchange_by(transport, *operation, {P2P::send(next, out), P2P::receive(previous, in)});
    link.end(std::move(operation)).wait();
  }
  const Event end = link.stream()->record_time();
  link.stream()->synchronize();
  return hosts.all_reduce_value(kLabel, end.milliseconds_since(begin) / (1e3 * kRounds),
                                ReduceOp::kMax);
}

}  // namespace

std::vector<TransportChoice::Sample> measure_transports(const Group& hosts, GpuLink& link,
                                                        int64_t largest_bytes) {
  const auto& memory = link.gpu()->memory;
  const Tensor out = Tensor::zeros(memory, {largest_bytes}, DType::kU8);
  const Tensor in = Tensor::zeros(memory, {largest_bytes}, DType::kU8);
  std::vector<TransportChoice::Sample> samples;
  for (int64_t bytes = kSmallestBytes; bytes <= largest_bytes; bytes *= 16) {
    const Tensor part_out = out.slice(0, 0, bytes), part_in = in.slice(0, 0, bytes);
    samples.push_back(
        {.message_bytes = bytes,
         .peer_copies_s = exchange_s(hosts, link, Transport::kPeerCopies, part_out, part_in),
         .nccl_s = exchange_s(hosts, link, Transport::kNccl, part_out, part_in)});
  }
  return samples;
}

}  // namespace longship
