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

// Where ranks share out a parameter, their pieces begin at multiples of this many elements, so that
// what is summed or drawn for so many elements at a time does not depend on the ranks.
inline constexpr int64_t kPieceElements = int64_t{1} << 15;

struct Parameter {
  std::string name;   // as in Llama/Qwen checkpoints: "model.layers.0.self_attn.q_proj.weight"
  Variable variable;  // what ops read, see Precision; whole, with its gradient in fp32
  bool decay = true;  // whether weight decay applies
  Initializer init = {};

  // What the optimizer of this rank changes. That is all of the parameter, unless ranks share it
  // out: then `master` is a piece of it, flat, from this element on.
  int64_t first_element = 0;
  Tensor master = {};  // fp32 (fp64 in tests)
  // Of the master, in the dtype that ops read; undefined where they read the master itself.
  Tensor copy = {};
  // Of the master's elements; the variable's, if that is all of them.
  std::shared_ptr<Gradient> gradient = {};

  const Shape& shape() const { return variable.shape(); }
};

// Owns the parameters in the order of creation, which is the order of the model's layers.
class ParameterList {
 public:
  // `compute` is the dtype ops see: fp32, bf16, or fp64 for tests.
  ParameterList(Context& ctx, DType compute, uint64_t seed)
      : ctx_(&ctx), compute_(compute), seed_(seed) {}

  // A list for names and shapes, however large. Parameters have neither values nor masters, until
  // somebody gives them: a variable borrows its elements (see Tensor::borrow).
  static ParameterList without_values(Context& ctx, DType compute = DType::kF32,
                                      uint64_t seed = 0) {
    ParameterList list(ctx, compute, seed);
    list.has_values_ = false;
    return list;
  }

  // Creates and initialises a parameter. The values depend on (seed, name, index) only. Duplicate
  // names throw Error(kInternal).
  Variable add(const std::string& name, Shape shape, Initializer init, bool decay,
               Precision precision = Precision::kCompute);
  // Fills the master of one of these parameters, whole or a piece, as add() does, and its copy.
  void initialize(const Parameter& parameter) const;

  bool has_values() const { return has_values_; }

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
