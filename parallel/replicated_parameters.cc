#include "parallel/replicated_parameters.h"

namespace longship {

ReplicatedParameters::ReplicatedParameters(Context& ctx, ParameterList& parameters,
                                           std::vector<size_t> unit_begins, const Group& group)
    : ctx_(ctx), parameters_(parameters), unit_begins_(std::move(unit_begins)), group_(group) {}

void ReplicatedParameters::begin_step() {
  parameters_.clear_gradients();
  is_last_ = false;
  reduction_.emplace(ctx_, parameters_, group_);
}

void ReplicatedParameters::end_backward(Context&, size_t unit) {
  if (is_last_) reduction_->begin_from(unit_begins_[unit]);
}

void ReplicatedParameters::finish_gradients() {
  reduction_->finish();
  reduction_.reset();
}

}  // namespace longship
