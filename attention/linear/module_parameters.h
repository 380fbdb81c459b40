// Registers the parameters of one module of a model under its name.
#pragma once

#include <cmath>
#include <string>

#include "attention/linear/linear_parameter_names.h"
#include "runtime/model/parameter.h"

namespace longship {

class ModuleParameters {
 public:
  // `list` outlives this; matrices start normal(0, init_std).
  ModuleParameters(ParameterList& list, std::string module, double init_std)
      : list_(list), module_(std::move(module)), init_std_(init_std) {}

  // <module>.<name>.weight [outputs, inputs], with weight decay.
  Variable matrix(const std::string& name, int64_t outputs, int64_t inputs) {
    return matrix(name, outputs, inputs, init_std_);
  }
  Variable matrix(const std::string& name, int64_t outputs, int64_t inputs, double init_std) {
    return list_.add(path(name + ".weight"), {outputs, inputs}, {.a = init_std}, /*decay=*/true);
  }
  // <module>.<name>, without weight decay.
  Variable vector(const std::string& name, int64_t size, Initializer init,
                  Precision precision = Precision::kCompute) {
    return list_.add(path(name), {size}, init, /*decay=*/false, precision);
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
  static Initializer convolution_start(int64_t width) {
    const double bound = 1 / std::sqrt(static_cast<double>(width));
    return {.kind = Initializer::Kind::kUniform, .a = -bound, .b = bound};
  }

  ParameterList& list_;
  std::string module_;
  double init_std_;
};

}  // namespace longship
