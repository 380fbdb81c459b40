// A tiny model trained with a stage of ZeRO, for tests that compare stages.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "launch/train_step.h"

namespace longship::testing {

// A configuration for this job, resolved; `options` is more text of it. Matrices of a layer have
// more than kPieceElements elements, norms a few.
config::Run zero_run(const std::string& stage, const std::string& options, int num_ranks);

// Model, optimizer and exchange of one rank.
class ZeroTraining {
 public:
  // `ctx` outlives this. Collective.
  ZeroTraining(Context& ctx, const config::Run& run, const Group& world);

  // One step over `num_micro_batches` samples of random tokens for every dp rank.
  StepOutcome step(uint64_t seed, int num_micro_batches = 1);
  // The bytes of each master, then its moments, put together from all ranks' pieces. Collective.
  std::vector<std::string> state() const;

  ParameterList& parameters() { return model_.parameters; }
  ParameterExchange& exchange() { return *exchange_; }

 private:
  Batch random_batch(uint64_t seed) const;

  Context& ctx_;
  const config::Run run_;
  const Mesh mesh_;
  Model model_;
  std::unique_ptr<ParameterExchange> exchange_;
  AdamW optimizer_;
};

// Of a few steps.
struct ZeroOutcome {
  std::vector<double> losses, norms;
  std::vector<std::string> state;

  bool operator==(const ZeroOutcome&) const = default;
};
ZeroOutcome zero_steps(Context& ctx, const config::Run& run, const Group& world, int num_steps,
                       int num_micro_batches = 1);

// Fails the test unless training, of three steps or more, ends alike by every stage.
void expect_bits_of_none(const std::function<ZeroOutcome(const std::string& stage)>& train);

}  // namespace longship::testing
