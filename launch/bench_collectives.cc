#include <array>
#include <functional>
#include <vector>

#include "launch/bench_cases.h"

namespace longship {
namespace {

// One operation over messages of `bytes` bytes, and the bytes that leave a rank by it.
struct Collective {
  const char* name;
  // Not in place: operations need not wait for each other.
  bool is_independent;
  int64_t (*sent_bytes)(int64_t bytes, int num_ranks);
  Work (*run)(const Group& group, const Tensor& send, const Tensor& receive,
              std::span<const int64_t> rows);
};

int64_t whole_message(int64_t bytes, int) {
  return bytes;
}
int64_t to_every_other(int64_t bytes, int num_ranks) {
  return bytes * (num_ranks - 1);
}
int64_t all_but_own_part(int64_t bytes, int num_ranks) {
  return bytes / num_ranks * (num_ranks - 1);
}

constexpr int kInFlight = 16;  // as many as a program that overlaps them might have

// `send` holds the message as fp32 rows [n]; `receive` has room for one from every rank.
constexpr std::array<Collective, 5> kCollectives = {{
    {"send+receive", true, whole_message,
     [](const Group& group, const Tensor& send, const Tensor& receive, std::span<const int64_t>) {
       const int size = group.size(), rank = group.rank();
       return group.exchange(
           "bench", {P2P::send((rank + 1) % size, send),
                     P2P::receive((rank + size - 1) % size, receive.slice(0, 0, send.dim(0)))});
     }},
    {"all_to_all", true, all_but_own_part,
     [](const Group& group, const Tensor& send, const Tensor& receive, std::span<const int64_t>) {
       const std::vector<int64_t> parts(static_cast<size_t>(group.size()),
                                        send.dim(0) / group.size());
       const int64_t total = parts[0] * group.size();
       return group.all_to_all("bench", send.slice(0, 0, total), parts, receive.slice(0, 0, total),
                               parts);
     }},
    {"all_gather", true, to_every_other,
     [](const Group& group, const Tensor& send, const Tensor& receive,
        std::span<const int64_t> rows) { return group.all_gather("bench", send, receive, rows); }},
    {"reduce_scatter", false, to_every_other,
     [](const Group& group, const Tensor& send, const Tensor& receive,
        std::span<const int64_t> rows) {
       return group.reduce_scatter("bench", receive, send, rows);
     }},
    {"all_reduce", false,
     [](int64_t bytes, int num_ranks) { return 2 * all_but_own_part(bytes, num_ranks); },
     [](const Group& group, const Tensor& send, const Tensor&, std::span<const int64_t>) {
       return group.all_reduce("bench", send);
     }},
}};

// What one of `count` operations takes that are in flight together.
double in_flight_ms(const BenchTimer& timer, int count, const std::function<Work()>& operation) {
  std::vector<Work> works(static_cast<size_t>(count));
  return timer.median_ms([&] {
    for (Work& work : works) work = operation();
    // They end in their order: the compute stream waits once.
    for (auto work = works.rbegin(); work != works.rend(); ++work) work->wait();
  }) / count;
}

std::string message_name(int64_t bytes) {
  return fmt::format("{}B", length_name(bytes));
}

}  // namespace

void bench_collectives(Job& job, const BenchArguments& arguments, const BenchTimer& timer,
                       BenchReport& report) {
  const int num_ranks = job.world.size();
  if (num_ranks < 2)
    throw Error(ErrorCode::kConfig, {.what = "longship bench collectives on one rank",
                                     .next = "start it with mpirun -n 2 or more"});
  for (const Collective& collective : kCollectives) {
    for (int64_t bytes : arguments.message_bytes) {
      const int64_t n = bytes / 4;
      const Tensor send = job.ctx.zeros({n}, DType::kF32);
      const Tensor receive = job.ctx.zeros({n * num_ranks}, DType::kF32);
      const std::vector<int64_t> rows(static_cast<size_t>(num_ranks), n);
      const auto run = [&] { return collective.run(job.world, send, receive, rows); };
      const double waited_ms = in_flight_ms(timer, 1, run);
      const double ms = collective.is_independent ? in_flight_ms(timer, kInFlight, run) : waited_ms;
      const auto sent = static_cast<double>(collective.sent_bytes(bytes, num_ranks));
      report.add({.name = fmt::format("{} {} {}", collective.name, device_count_name(job),
                                      message_name(bytes)),
                  .ms = ms,
                  .floor_ms = floor_ms(sent, report.peaks().link_bytes_per_s),
                  .rate = 1e-6 * sent / ms,
                  .unit = "GB/s out of a rank",
                  .note = "",
                  .details = {{"message_bytes", bytes}, {"waited_ms", waited_ms}}});
    }
  }
}

}  // namespace longship
