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
void initialize(const Context& ctx, const Tensor& part, int64_t first, const Initializer& init,
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

// On a GPU the values come from the host, a piece at a time: those of log and cos there have other
// last bits.
void initialize(const Context& ctx, const Tensor& master, const Initializer& init, uint64_t seed,
                uint64_t stream) {
  if (!master.has_elements()) return;
  if (master.device().kind == DeviceKind::kCpu)
    return initialize(ctx, master, 0, init, seed, stream);
  constexpr int64_t kPieceElements = int64_t{1} << 24;
  const Tensor flat = master.reshape({-1});
  const auto host = std::make_shared<Memory>();
  for (int64_t begin = 0; begin < flat.numel(); begin += kPieceElements) {
    const Tensor piece = flat.slice(0, begin, std::min(kPieceElements, flat.numel() - begin));
    const Tensor values = Tensor::empty(host, piece.shape(), piece.dtype());
    initialize(ctx, values, begin, init, seed, stream);
    piece.copy_from(values);
  }
}

}  // namespace

Variable ParameterList::add(const std::string& name, Shape shape, Initializer init, bool decay,
                            Precision precision) {
  LONGSHIP_CHECK(find(name) == nullptr, "parameter {} exists twice", name);
  const DType master_dtype = accumulator_dtype(compute_);
  Tensor master = ctx_->empty(shape, master_dtype);
  if (has_values_) initialize(*ctx_, master, init, seed_, stream_of(name));
  Variable variable(precision == Precision::kMaster ? master : master.to(compute_),
                    std::make_shared<Gradient>(shape, master_dtype));
  parameters_.push_back({name, master, variable, decay});
  return variable;
}

void ParameterList::refresh_compute_copies() {
  for (Parameter& parameter : parameters_)
    if (parameter.variable.dtype() != parameter.master.dtype())
      parameter.variable.value().copy_from(parameter.master);
}

void ParameterList::clear_gradients() {
  for (Parameter& parameter : parameters_) parameter.variable.gradient()->clear();
}

const Parameter* ParameterList::find(const std::string& name) const {
  for (const Parameter& parameter : parameters_)
    if (parameter.name == name) return &parameter;
  return nullptr;
}

int64_t ParameterList::num_elements() const {
  int64_t count = 0;
  for (const Parameter& parameter : parameters_) count += parameter.master.numel();
  return count;
}

}  // namespace longship
