// Parameters of a model: named, initialised by counter-based random numbers, with fp32 masters.
#pragma once

#include <deque>
#include <string>

#include "runtime/autograd/variable.h"

namespace longship {

struct Initializer {
  enum class Kind {
    kNormal,
    kConstant,
    kUniform,
    kLogOfUniform,    // log u, u uniform
    kInverseSoftplus  // x with softplus(x) = u, log u uniform
  };
  Kind kind = Kind::kNormal;
  double a = 0.02;  // normal: standard deviation; constant: value; others: least u
  double b = 0.0;   // others: greatest u
};

// What ops read of a parameter: its copy in the model's dtype, or the master itself.
enum class Precision { kCompute, kMaster };

struct Parameter {
  std::string name;   // as in Llama/Qwen checkpoints: "model.layers.0.self_attn.q_proj.weight"
  Tensor master;      // fp32 (fp64 in tests); the optimizer changes this one
  Variable variable;  // what ops read, see Precision; gradient in fp32
  bool decay = true;  // whether weight decay applies
};

// Owns the parameters in the order of creation, which is the order of the model's layers.
class ParameterList {
 public:
  // `compute` is the dtype ops see: fp32, bf16, or fp64 for tests.
  ParameterList(Context& ctx, DType compute, uint64_t seed)
      : ctx_(&ctx), compute_(compute), seed_(seed) {}

  // A list for names and shapes, however large: memory for values is reserved but never touched.
  static ParameterList without_values(Context& ctx) {
    ParameterList list(ctx, DType::kF32, 0);
    list.has_values_ = false;
    return list;
  }

  // Creates and initialises a parameter. The values depend on (seed, name, index) only. Duplicate
  // names throw Error(kInternal).
  Variable add(const std::string& name, Shape shape, Initializer init, bool decay,
               Precision precision = Precision::kCompute);

  // Rounds every master into its compute copy again; call after the optimizer changed masters.
  void refresh_compute_copies();
  void clear_gradients();

  std::deque<Parameter>& all() { return parameters_; }
  const std::deque<Parameter>& all() const { return parameters_; }
  const Parameter* find(const std::string& name) const;
  int64_t num_elements() const;

 private:
  Context* ctx_;
  DType compute_;
  uint64_t seed_;
  bool has_values_ = true;
  std::deque<Parameter> parameters_;
};

}  // namespace longship
