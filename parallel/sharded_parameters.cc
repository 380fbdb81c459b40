#include "parallel/sharded_parameters.h"

namespace longship {
namespace {

// Summed gradients of units on their way to other ranks, which take memory.
constexpr size_t kReductionsInFlight = 2;

}  // namespace

ShardedParameters::ShardedParameters(Context& ctx, ParameterList& parameters,
                                     const std::vector<size_t>& unit_begins, const Group& group,
                                     ZeroStage stage)
    : group_(group), stage_(stage), units_(unit_begins.size()) {
  LONGSHIP_CHECK(!parameters.has_values(), "parameters to be shared out have values already");
  std::deque<Parameter>& all = parameters.all();
  for (size_t u = 0; u < units_.size(); ++u) {
    const size_t end = u + 1 < units_.size() ? unit_begins[u + 1] : all.size();
    for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF64}) {
      std::vector<Parameter*> alike;
      for (size_t i = unit_begins[u]; i < end; ++i)
        if (all[i].variable.dtype() == dtype) alike.push_back(&all[i]);
      if (!alike.empty())
        units_[u].flats.emplace_back(ctx, std::move(alike), group_,
                                     /*keeps_values=*/stage != ZeroStage::kParameters);
    }
  }
  for (const Parameter& parameter : all) parameters.initialize(parameter);
}

void ShardedParameters::gather(size_t unit) {
  for (FlatParameters& flat : units_[unit].flats) flat.finish_gather();
}

void ShardedParameters::prefetch(size_t unit) {
  for (FlatParameters& flat : units_[unit].flats) flat.begin_gather();
}

void ShardedParameters::drop(size_t unit) {
  for (FlatParameters& flat : units_[unit].flats) flat.drop_values();
}

void ShardedParameters::begin_forward(Context&, size_t unit) {
  gather(unit);
  // The first unit after the last one is the head: no other follows.
  const bool is_head = unit == 0 && newest_unit_ + 1 == units_.size();
  if (!is_head && unit + 1 < units_.size()) prefetch(unit + 1);
  newest_unit_ = unit;
}

void ShardedParameters::end_forward(Context&, size_t unit) {
  drop(unit);
}

void ShardedParameters::begin_backward(Context&, size_t unit) {
  gather(unit);
  if (unit > 1) prefetch(unit - 1);
  newest_unit_ = unit;
}

void ShardedParameters::end_backward(Context&, size_t unit) {
  drop(unit);
  if (reduces_) reduce(unit);
}

void ShardedParameters::begin_step() {
  in_flight_.clear();
  for (Unit& unit : units_)
    for (FlatParameters& flat : unit.flats) flat.clear_gradients();
}

void ShardedParameters::begin_micro_batch(bool is_last) {
  reduces_ = is_last || stage_ != ZeroStage::kOptimizer;
  for (Unit& unit : units_) unit.is_reduced = false;
}

void ShardedParameters::reduce(size_t unit) {
  if (std::exchange(units_[unit].is_reduced, true)) return;
  for (FlatParameters& flat : units_[unit].flats) {
    while (in_flight_.size() >= kReductionsInFlight) finish_oldest_reduction();
    in_flight_.push_back({&flat, flat.begin_reduction()});
  }
}

void ShardedParameters::finish_oldest_reduction() {
  in_flight_.front().flat->finish_reduction(std::move(in_flight_.front().reduction));
  in_flight_.pop_front();
}

void ShardedParameters::end_micro_batch() {
  if (!reduces_) return;
  for (size_t unit = units_.size(); unit-- > 0;) reduce(unit);
}

void ShardedParameters::finish_gradients() {
  while (!in_flight_.empty()) finish_oldest_reduction();
  for (Unit& unit : units_)
    for (FlatParameters& flat : unit.flats) flat.publish_gradients();
}

void ShardedParameters::updated() {
  for (Unit& unit : units_)
    for (FlatParameters& flat : unit.flats) flat.begin_update();
}

}  // namespace longship
