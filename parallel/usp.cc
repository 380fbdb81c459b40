#include "parallel/usp.h"

#include <algorithm>
#include <map>

#include "parallel/head_exchange.h"
#include "parallel/head_schedule.h"
#include "parallel/ring.h"

namespace longship {
namespace {

std::vector<int> divisors_of(int number) {
  std::vector<int> divisors;
  for (int divisor = 1; divisor <= number; ++divisor)
    if (number % divisor == 0) divisors.push_back(divisor);
  return divisors;
}

// Collective. Groups of one rank need no communicator.
HeadGrid make_grid(const Group& sp, const SoftmaxBlock& kernel, int ulysses_degree) {
  const int size = sp.size(), group = sp.rank() / ulysses_degree,
            place = sp.rank() % ulysses_degree;
  auto part = [&](int part_size, int color) {
    if (part_size == 1) return Group::self();
    return part_size == size ? sp : sp.split(color, sp.rank());
  };
  Group heads = part(ulysses_degree, group);
  Group ring = part(size / ulysses_degree, place);
  return {std::move(heads), make_ring_passes("usp", std::move(ring), kernel)};
}

class Usp final : public HeadSchedule {
 public:
  Usp(const Group& sp, const SoftmaxBlock& kernel, const UspOptions& options)
      : HeadSchedule("usp", sp, options.max_head_groups), forced_degree_(options.ulysses_degree) {
    const std::vector<int> divisors = divisors_of(sp.size());
    if (forced_degree_ == 0) {
      // Layers may differ in heads. All splits happen here, where the ranks are known to be
      // together and no other thread splits.
      for (int degree : divisors) grids_.emplace(degree, make_grid(sp, kernel, degree));
      return;
    }
    if (std::find(divisors.begin(), divisors.end(), forced_degree_) == divisors.end())
      throw Error(ErrorCode::kConfig,
                  {.what = "Ulysses degree of strategy `usp`",
                   .expected = fmt::format("a divisor of the {} ranks that share a sequence: {}",
                                           sp.size(), fmt::join(divisors, ", ")),
                   .found = std::to_string(forced_degree_),
                   .next = "take one of these, or 0 to choose by head counts"});
    grids_.emplace(forced_degree_, make_grid(sp, kernel, forced_degree_));
  }

 private:
  const HeadGrid& grid(const AttentionShape& shape) const override {
    if (forced_degree_ > 0) return grids_.at(forced_degree_);
    return grids_.at(choose_usp_degrees(shape.num_heads, shape.num_kv_heads, sp().size()).ulysses);
  }

  int forced_degree_;
  std::map<int, HeadGrid> grids_;  // by Ulysses degree
};

}  // namespace

int64_t usp_traffic(int64_t num_heads, int64_t num_kv_heads, UspDegrees degrees) {
  const int64_t u = degrees.ulysses, r = degrees.ring;
  int64_t kv = 0;
  for (const HeadShare& share : deal_heads(num_heads, num_kv_heads, degrees.ulysses))
    kv += share.kv.count;
  const int64_t kv_sums = kv > num_kv_heads ? 2 * kv : kv;  // in elements
  const int64_t all_to_all = (u - 1) * r * (num_heads + kv + num_heads + kv_sums);
  const int64_t ring = r > 1 ? u * r * ((r - 1) * 2 * kv + 2 * r * kv) : 0;
  return all_to_all + ring;
}

UspDegrees choose_usp_degrees(int64_t num_heads, int64_t num_kv_heads, int num_ranks) {
  UspDegrees best{.ulysses = 1, .ring = num_ranks};
  int64_t least = usp_traffic(num_heads, num_kv_heads, best);
  for (int degree : divisors_of(num_ranks)) {
    if (num_heads % degree != 0) continue;
    const UspDegrees degrees{.ulysses = degree, .ring = num_ranks / degree};
    const int64_t traffic = usp_traffic(num_heads, num_kv_heads, degrees);
    if (traffic > least) continue;
    least = traffic;
    best = degrees;
  }
  return best;
}

std::unique_ptr<SoftmaxSchedule> make_usp(Group sp, const SoftmaxBlock& kernel,
                                          const UspOptions& options) {
  return std::make_unique<Usp>(sp, kernel, options);
}

}  // namespace longship
