// Steps of a tiny whole model on any device, by one rank or by many: what a run is compared by.
#pragma once

#include <string>
#include <vector>

#include "launch/train_step.h"

namespace longship::testing {

constexpr int64_t kTrainVocabulary = 300;

// Of this model, parallelism and training (the texts of the configuration's blocks), resolved for
// as many ranks.
config::Run resolved_run(const std::string& model, const std::string& parallel,
                         const std::string& train, int num_ranks);

// Documents of these lengths, of random tokens, whole, on the host.
Batch random_training_batch(const std::vector<int64_t>& lengths, uint64_t seed);

// The part of a rank of `sp`, where ctx runs.
Batch share_of(const Context& ctx, const Batch& whole, Layout layout, const Group& sp);

struct TrainOutcome {
  std::vector<double> losses, norms;
  std::vector<Tensor> first_gradients, weights;  // of each parameter, on the host
  std::vector<int64_t> system_allocations;       // after each step
  int64_t peak_bytes = 0;                        // beyond weights and optimizer
};

// Copies on the host.
std::vector<Tensor> gradients_of(const ParameterList& parameters);
std::vector<Tensor> weights_of(const ParameterList& parameters);

// Steps of two micro-batches each, of which a rank takes those of its place in dp and of them its
// place in sp; both kinds of steps come back, so that the loss can fall. Collective over `mesh`.
TrainOutcome train(Context& ctx, Model model, const Mesh& mesh, Layout layout, int num_steps);
// The model of `run`, whose dp and sp are those of `mesh`, with its `train.deterministic`.
TrainOutcome train(Context ctx, const config::Run& run, const Mesh& mesh, int num_steps);

// Fails the test unless losses, norms and weights are equal bit by bit.
void expect_same_bits(const TrainOutcome& a, const TrainOutcome& b);

}  // namespace longship::testing
