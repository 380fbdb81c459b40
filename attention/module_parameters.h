// Registers the parameters of one module of a model under its name, as the modules of published
// models start them.
#pragma once

#include <cmath>
#include <string>

#include "runtime/model/parameter.h"
#include "runtime/model/transformer_shape.h"

namespace longship {

class ModuleParameters {
 public:
  // `list` outlives this. `num_layers` are those of the model.
  ModuleParameters(ParameterList& list, std::string module, double init_std, int64_t num_layers)
      : list_(list), module_(std::move(module)), init_std_(init_std), num_layers_(num_layers) {}

  // <module>.<name>.weight [outputs, inputs], normal(0, init_std), with weight decay.
  Variable matrix(const std::string& name, int64_t outputs, int64_t inputs) {
    return matrix(name, outputs, inputs, init_std_);
  }
  // The same for a projection to the residual stream: normal(0, init_std / sqrt(2 num_layers)).
  Variable residual_matrix(const std::string& name, int64_t outputs, int64_t inputs) {
    return matrix(name, outputs, inputs, residual_init_std(init_std_, num_layers_));
  }
  // <module>.<name>, without weight decay.
  Variable vector(const std::string& name, int64_t size, Initializer init,
                  Precision precision = Precision::kCompute) {
    return list_.add(path(name), {size}, init, /*decay=*/false, precision);
  }
  // <module>.<name>.bias [size], starting at 0.
  Variable bias(const std::string& name, int64_t size) {
    return vector(name + ".bias", size, {.kind = Initializer::Kind::kConstant, .a = 0});
  }
  // <module>.<name>.weight [size], starting at 1.
  Variable norm(const std::string& name, int64_t size) {
    return vector(name + ".weight", size, {.kind = Initializer::Kind::kConstant, .a = 1});
  }
  // <module>.<name>.weight [channels, 1, width], as PyTorch's Conv1d stores and starts it.
  Variable convolution(const std::string& name, int64_t channels, int64_t width) {
    return list_.add(path(name + ".weight"), {channels, 1, width}, convolution_start(width),
                     /*decay=*/true);
  }
  // <module>.<name>.bias [channels].
  Variable convolution_bias(const std::string& name, int64_t channels, int64_t width) {
    return vector(name + ".bias", channels, convolution_start(width));
  }

 private:
  std::string path(const std::string& name) const { return module_ + "." + name; }
  Variable matrix(const std::string& name, int64_t outputs, int64_t inputs, double init_std) {
    return list_.add(path(name + ".weight"), {outputs, inputs}, {.a = init_std}, /*decay=*/true);
  }
  static Initializer convolution_start(int64_t width) {
    const double bound = 1 / std::sqrt(static_cast<double>(width));
    return {.kind = Initializer::Kind::kUniform, .a = -bound, .b = bound};
  }

  ParameterList& list_;
  std::string module_;
  double init_std_;
  int64_t num_layers_;
};

}  // namespace longship
