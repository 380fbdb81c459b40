#include "parallel/flat_parameters.h"

#include <algorithm>

namespace longship {
namespace {

// Parameters begin at multiples of so many elements, as far as kernels want addresses aligned.
constexpr int64_t kAlignment = 128;

std::vector<FlatPlace> lay_end_to_end(const std::vector<Parameter*>& parameters) {
  std::vector<FlatPlace> places;
  int64_t begin = 0;
  for (const Parameter* parameter : parameters) {
    places.push_back({begin, parameter->variable.value().numel()});
    begin = (places.back().end() + kAlignment - 1) / kAlignment * kAlignment;
  }
  return places;
}

DType master_dtype(const std::vector<Parameter*>& parameters) {
  return parameters[0]->variable.gradient()->dtype();
}

std::vector<int64_t> differences(const std::vector<int64_t>& cuts) {
  std::vector<int64_t> rows;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) rows.push_back(cuts[i + 1] - cuts[i]);
  return rows;
}

}  // namespace

FlatParameters::FlatParameters(Context& ctx, std::vector<Parameter*> parameters, const Group& group,
                               bool keeps_values)
    : ctx_(ctx),
      group_(group),
      keeps_values_(keeps_values),
      is_stale_(keeps_values),
      parameters_(std::move(parameters)),
      places_(lay_end_to_end(parameters_)),
      cuts_(shard_cuts(places_, places_.back().end(), group.size())),
      rows_(differences(cuts_)),
      gradient_({piece_size()}, master_dtype(parameters_)) {
  const DType dtype = parameters_[0]->variable.dtype();
  if (keeps_values_) values_F_ = ctx.zeros({cuts_.back()}, dtype);
  own_P_ = keeps_values_ ? values_F_.slice(0, piece_begin(), piece_size())
                         : ctx.zeros({piece_size()}, dtype);
  const bool has_copy = dtype != gradient_.dtype();
  master_P_ = has_copy ? ctx.zeros({piece_size()}, gradient_.dtype()) : own_P_;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& parameter = *parameters_[i];
    const FlatPlace held = held_part(places_[i]);
    const int64_t begin = held.begin - piece_begin();
    parameter.first_element = held.num_elements > 0 ? held.begin - places_[i].begin : 0;
    parameter.master = master_P_.slice(0, begin, held.num_elements);
    if (has_copy) parameter.copy = own_P_.slice(0, begin, held.num_elements);
    parameter.gradient = std::make_shared<Gradient>(Shape{held.num_elements}, gradient_.dtype());
  }
}

FlatPlace FlatParameters::held_part(const FlatPlace& place) const {
  const int64_t piece_end = piece_begin() + piece_size();
  const int64_t begin = std::clamp(place.begin, piece_begin(), piece_end);
  const int64_t end = std::clamp(place.end(), piece_begin(), piece_end);
  return {begin, end - begin};
}

void FlatParameters::begin_gather() {
  if (values_F_.defined()) return;
  values_F_ = ctx_.empty({cuts_.back()}, own_P_.dtype());
  gather_ = group_.all_gather("parameters", own_P_, values_F_, rows_);
}

void FlatParameters::begin_update() {
  if (!keeps_values_) return drop_values();
  is_stale_ = false;
  gather_.wait();
  std::vector<P2P> batch;
  for (int peer = 0; peer < group_.size(); ++peer) {
    if (peer == group_.rank()) continue;
    const auto p = static_cast<size_t>(peer);
    batch.push_back(P2P::send(peer, own_P_));
    batch.push_back(P2P::receive(peer, values_F_.slice(0, cuts_[p], rows_[p])));
  }
  gather_ = group_.exchange("parameters", std::move(batch));
}

void FlatParameters::finish_gather() {
  if (is_stale_)
    begin_update();
  else
    begin_gather();
  gather_.wait();
  gather_ = Work();
  if (is_lent_) return;
  for (size_t i = 0; i < parameters_.size(); ++i)
    parameters_[i]->variable.value().borrow(
        values_F_.slice(0, places_[i].begin, places_[i].num_elements));
  is_lent_ = true;
}

void FlatParameters::drop_values() {
  if (keeps_values_) return;
  for (const Parameter* parameter : parameters_) parameter->variable.value().give_back();
  is_lent_ = false;
  values_F_ = Tensor();
}

Tensor FlatParameters::packed_gradients() {
  if (parameters_.size() == 1) {
    Gradient& gradient = *parameters_[0]->variable.gradient();
    return gradient.defined() ? gradient.take().contiguous().reshape({-1})
                              : ctx_.zeros({cuts_.back()}, gradient_.dtype());
  }
  const Tensor packed_F = ctx_.empty({cuts_.back()}, gradient_.dtype());
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Gradient& gradient = *parameters_[i]->variable.gradient();
    const Tensor place = packed_F.slice(0, places_[i].begin, places_[i].num_elements);
    if (gradient.defined())
      place.copy_from(gradient.take().contiguous().reshape({-1}));
    else
      place.fill_zero();
  }
  return packed_F;
}

FlatParameters::Reduction FlatParameters::begin_reduction() {
  Reduction reduction{.gradients_F = packed_gradients(),
                      .sum_P = ctx_.empty({piece_size()}, gradient_.dtype()),
                      .work = {}};
  reduction.work =
      group_.reduce_scatter("gradients", reduction.gradients_F, reduction.sum_P, rows_);
  return reduction;
}

void FlatParameters::finish_reduction(Reduction reduction) {
  reduction.work.wait();
  gradient_.add(ctx_, std::move(reduction.sum_P));
}

void FlatParameters::publish_gradients() {
  const Tensor& sum_P = gradient_.accumulate_into(ctx_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const FlatPlace held = held_part(places_[i]);
    parameters_[i]->gradient->clear();
    parameters_[i]->gradient->add(ctx_,
                                  sum_P.slice(0, held.begin - piece_begin(), held.num_elements));
  }
}

void FlatParameters::clear_gradients() {
  for (const Parameter* parameter : parameters_) {
    parameter->variable.gradient()->clear();
    parameter->gradient->clear();
  }
  gradient_.clear();
}

}  // namespace longship
