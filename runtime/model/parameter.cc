#include "runtime/model/parameter.h"

#include <algorithm>
#include <cmath>

#include "runtime/parallel_for.h"
#include "runtime/random.h"

namespace longship {
namespace {

double initial_value(const Initializer& init, uint64_t seed, uint64_t stream, int64_t index) {
  auto between = [&](double low, double high) {
    return low + (high - low) * uniform(seed, stream, static_cast<uint64_t>(index));
  };
  switch (init.kind) {
    case Initializer::Kind::kNormal:
      return init.a * normal(seed, stream, static_cast<uint64_t>(index));
    case Initializer::Kind::kConstant:
      return init.a;
    case Initializer::Kind::kUniform:
      return between(init.a, init.b);
    case Initializer::Kind::kLogOfUniform:
      return std::log(between(init.a, init.b));
    case Initializer::Kind::kInverseSoftplus: {
      const double u = std::exp(between(std::log(init.a), std::log(init.b)));
      return u + std::log(-std::expm1(-u));
    }
  }
  return 0;
}

// Fills `part`, elements from `first` on of a parameter, in host memory.
void fill(const Context& ctx, const Tensor& part, int64_t first, const Initializer& init,
          uint64_t seed, uint64_t stream) {
  dispatch_floating(part.dtype(), [&](auto tag) {
    using T = decltype(tag);
    T* data = part.data<T>();
    parallel_for(ctx, part.numel(), 1 << 12, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        data[i] = static_cast<T>(
            static_cast<Accumulator<T>>(initial_value(init, seed, stream, first + i)));
    });
  });
}

}  // namespace

// On a GPU the values come from the host, a piece at a time: those of log and cos there have other
// last bits.
void ParameterList::initialize(const Parameter& parameter) const {
  const Tensor& master = parameter.master;
  if (!master.has_elements()) return;
  const bool on_host = master.device().kind == DeviceKind::kCpu;
  const int64_t piece_elements = on_host ? master.numel() : int64_t{1} << 24;
  const Tensor flat = master.reshape({-1});
  const auto host = std::make_shared<Memory>();
  for (int64_t begin = 0; begin < flat.numel(); begin += piece_elements) {
    const Tensor piece = flat.slice(0, begin, std::min(piece_elements, flat.numel() - begin));
    const Tensor values = on_host ? piece : Tensor::empty(host, piece.shape(), piece.dtype());
    fill(*ctx_, values, parameter.first_element + begin, parameter.init, seed_,
         stream_of(parameter.name));
    if (!on_host) piece.copy_from(values);
  }
  if (parameter.copy.defined()) parameter.copy.copy_from(master);
}

Variable ParameterList::add(const std::string& name, Shape shape, Initializer init, bool decay,
                            Precision precision) {
  LONGSHIP_CHECK(find(name) == nullptr, "parameter {} exists twice", name);
  const DType master_dtype = accumulator_dtype(compute_);
  const DType dtype = precision == Precision::kMaster ? master_dtype : compute_;
  const auto gradient = std::make_shared<Gradient>(shape, master_dtype);
  if (!has_values_) {
    const Variable variable(Tensor::without_elements(ctx_->memory, std::move(shape), dtype),
                            gradient);
    parameters_.push_back({.name = name, .variable = variable, .decay = decay, .init = init});
    return variable;
  }
  const Tensor master = ctx_->empty(shape, master_dtype);
  const Tensor copy = dtype == master_dtype ? Tensor() : ctx_->empty(std::move(shape), dtype);
  const Variable variable(copy.defined() ? copy : master, gradient);
  parameters_.push_back({.name = name,
                         .variable = variable,
                         .decay = decay,
                         .init = init,
                         .master = master,
                         .copy = copy,
                         .gradient = gradient});
  initialize(parameters_.back());
  return variable;
}

void ParameterList::refresh_compute_copies() {
  for (Parameter& parameter : parameters_)
    if (parameter.copy.defined()) parameter.copy.copy_from(parameter.master);
}

void ParameterList::clear_gradients() {
  for (Parameter& parameter : parameters_) {
    parameter.variable.gradient()->clear();
    if (parameter.gradient != nullptr) parameter.gradient->clear();
  }
}

const Parameter* ParameterList::find(const std::string& name) const {
  for (const Parameter& parameter : parameters_)
    if (parameter.name == name) return &parameter;
  return nullptr;
}

int64_t ParameterList::num_elements() const {
  int64_t count = 0;
  for (const Parameter& parameter : parameters_) count += parameter.variable.value().numel();
  return count;
}

}  // namespace longship
