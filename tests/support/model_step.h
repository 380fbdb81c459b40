// One optimizer step of a tiny whole model, for tests that compare ways to spread it over ranks.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "attention/registry.h"
#include "parallel/mesh.h"
#include "runtime/model/transformer.h"

namespace longship::testing {

// One packed sequence of a data-parallel rank, whole.
struct Sample {
  std::vector<int64_t> cu_seqlens;
  Tensor tokens_S, targets_S;  // i32
  Tensor weights_S;            // fp32, 1 where the loss counts

  SequencePlan plan(Layout layout, const Group& sp) const;
};

// Documents of these lengths, of random tokens below `vocabulary`; a document's last token predicts
// nothing. Tokens before `loss_begin` do not count either.
Sample make_sample(const Context& ctx, const std::vector<int64_t>& lengths, uint64_t seed,
                   int64_t vocabulary, int64_t loss_begin = 0);

struct Batch {
  Batch(std::string name, std::vector<Sample> samples);

  std::string name;
  std::vector<Sample> samples;
  double num_loss_tokens = 0;
};

struct ModelCase {
  TransformerShape shape;
  std::vector<LayerDescriptor> layers;
  Layout layout = Layout::kContiguous;
  DType dtype = DType::kF32;
};

// The same weights on every rank.
struct Model {
  Model(Context& ctx, const Group& sp, const ModelCase& model);

  ParameterList parameters;
  Transformer transformer;
};

// Loss and the gradient of every parameter, by name.
struct Step {
  double loss = 0;
  std::vector<std::pair<std::string, Tensor>> gradients;
};

// Each data-parallel rank takes its share of the samples.
Step run_step(Context& ctx, const Batch& batch, const Mesh& mesh, const ModelCase& model);

// On this rank alone, every layer with the strategy "local".
Step run_step_on_one_rank(Context& ctx, const Batch& batch, ModelCase model);

// In fp32: loss within 1e-6, gradients within 1e-5 relative RMS.
void expect_equal(const Step& found, const Step& expected);

}  // namespace longship::testing
