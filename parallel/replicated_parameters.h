// Every rank holds all parameters and gets the sum of all gradients.
#pragma once

#include <optional>
#include <vector>

#include "parallel/gradient_reduction.h"
#include "parallel/parameter_exchange.h"

namespace longship {

// Gradients are summed over ranks while the last backward goes on to earlier units.
class ReplicatedParameters final : public ParameterExchange {
 public:
  // `unit_begins`: numbers of the parameters with which the units of ParameterUse begin. All must
  // outlive this object.
  ReplicatedParameters(Context& ctx, ParameterList& parameters, std::vector<size_t> unit_begins,
                       const Group& group);

  void begin_forward(Context&, size_t) override {}
  void end_forward(Context&, size_t) override {}
  void begin_backward(Context&, size_t) override {}
  void end_backward(Context& ctx, size_t unit) override;

  void begin_step() override;
  void begin_micro_batch(bool is_last) override { is_last_ = is_last; }
  void end_micro_batch() override {}
  void finish_gradients() override;
  void updated() override {}
  const Group& sharers() const override { return self_; }

 private:
  Context& ctx_;
  ParameterList& parameters_;
  const std::vector<size_t> unit_begins_;
  const Group& group_;
  const Group self_ = Group::self();
  std::optional<GradientReduction> reduction_;  // of this step
  bool is_last_ = false;                        // micro-batch
};

}  // namespace longship
