// How many floating-point operations a training step is, counted from the model alone, so that
// runs and programs can be compared: model FLOPs utilisation (PaLM, Chowdhery et al. 2022, arXiv
// 2204.02311, appendix B). What a program computes twice counts once.
#pragma once

#include <span>

#include "data/batch.h"
#include "launch/config.pb.h"
#include "launch/model.h"

namespace longship {

// Forward and backward of these micro-batches, on all the ranks that share them: with T tokens and
// N weights that each token is multiplied with (all but an embedding table that is not the output
// head too), 6 N T, and of each layer
//   softmax attention   6 (D + V) for every query head and every pair of a query and a key that it
//                       sees, counted exactly for causal masks, documents, windows and sinks
//   linear attention    12 K V for every head and token, 18 K V with the delta rule
// for head sizes D (queries, keys), V (values), and states of K x V. `run` is valid and resolved.
double step_flops(const config::Run& run, const Model& model, std::span<const Batch> micro_batches);

}  // namespace longship
