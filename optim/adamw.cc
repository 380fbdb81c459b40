#include "optim/adamw.h"

#include <cmath>

#include "runtime/parallel_for.h"

namespace longship {
namespace {

// The scalars of one update. All arithmetic on elements is in T, as that is what the state holds.
template <class T>
struct Coefficients {
  T gradient_scale;
  T keep;  // 1 - rate * weight_decay
  T beta1, one_minus_beta1;
  T beta2, one_minus_beta2;
  T step_size;            // rate / (1 - beta1^t)
  T inverse_correction2;  // 1 / sqrt(1 - beta2^t)
  T epsilon;
};

template <class T>
void update(const Coefficients<T>& c, int64_t begin, int64_t end, const T* __restrict__ gradient,
            T* __restrict__ p, T* __restrict__ m, T* __restrict__ v) {
  for (int64_t i = begin; i < end; ++i) {
    const T g = gradient[i] * c.gradient_scale;
    m[i] = c.beta1 * m[i] + c.one_minus_beta1 * g;
    v[i] = c.beta2 * v[i] + c.one_minus_beta2 * (g * g);
    const T denominator = std::sqrt(v[i]) * c.inverse_correction2 + c.epsilon;
    p[i] = c.keep * p[i] - c.step_size * (m[i] / denominator);
  }
}

void check(bool fine, const char* field, const char* expected, double found) {
  if (!fine)
    throw Error(ErrorCode::kConfig, {.what = fmt::format("AdamW: {} cannot be used", field),
                                     .expected = expected,
                                     .found = fmt::format("{}", found),
                                     .next = fmt::format("change {}", field)});
}

}  // namespace

AdamW::AdamW(const Context& ctx, ParameterList& parameters, AdamWOptions options)
    : parameters_(&parameters), options_(options) {
  check(options.beta1 >= 0 && options.beta1 < 1, "beta1", "0 <= beta1 < 1", options.beta1);
  check(options.beta2 >= 0 && options.beta2 < 1, "beta2", "0 <= beta2 < 1", options.beta2);
  check(options.epsilon > 0 && std::isfinite(options.epsilon), "epsilon", "epsilon > 0",
        options.epsilon);
  check(options.weight_decay >= 0 && std::isfinite(options.weight_decay), "weight_decay",
        "weight_decay >= 0", options.weight_decay);
  for (const Parameter& parameter : parameters.all()) {
    const Tensor& master = parameter.master;
    moments_.push_back(
        {ctx.zeros(master.shape(), master.dtype()), ctx.zeros(master.shape(), master.dtype())});
  }
}

void AdamW::step(const Context& ctx, double learning_rate, double gradient_scale) {
  LONGSHIP_CHECK(parameters_->all().size() == moments_.size(), "{} parameters, {} moments",
                 parameters_->all().size(), moments_.size());
  ++num_steps_;
  const double t = static_cast<double>(num_steps_);
  const double correction1 = 1 - std::pow(options_.beta1, t);
  const double correction2 = 1 - std::pow(options_.beta2, t);
  size_t index = 0;
  for (Parameter& parameter : parameters_->all()) {
    const Moments& moments = moments_[index++];
    const Tensor& master = parameter.master;
    const Gradient& slot = *parameter.variable.gradient();
    const Tensor gradient =
        slot.defined() ? slot.sum().contiguous() : ctx.zeros(master.shape(), master.dtype());
    const double decay = parameter.decay ? options_.weight_decay : 0;
    dispatch_floating(master.dtype(), [&](auto tag) {
      using T = Accumulator<decltype(tag)>;
      const Coefficients<T> c = {.gradient_scale = static_cast<T>(gradient_scale),
                                 .keep = static_cast<T>(1 - learning_rate * decay),
                                 .beta1 = static_cast<T>(options_.beta1),
                                 .one_minus_beta1 = static_cast<T>(1 - options_.beta1),
                                 .beta2 = static_cast<T>(options_.beta2),
                                 .one_minus_beta2 = static_cast<T>(1 - options_.beta2),
                                 .step_size = static_cast<T>(learning_rate / correction1),
                                 .inverse_correction2 = static_cast<T>(1 / std::sqrt(correction2)),
                                 .epsilon = static_cast<T>(options_.epsilon)};
      const T* g = gradient.data<T>();
      T* p = master.data<T>();
      T* m = moments.m.data<T>();
      T* v = moments.v.data<T>();
      parallel_for(ctx, master.numel(), 1 << 14,
                   [&](int64_t begin, int64_t end) { update(c, begin, end, g, p, m, v); });
    });
  }
  parameters_->refresh_compute_copies();
}

std::vector<NamedTensor> AdamW::state() const {
  std::vector<NamedTensor> result;
  size_t index = 0;
  for (const Parameter& parameter : parameters_->all()) {
    const Moments& moments = moments_[index++];
    result.push_back({"optim.m." + parameter.name, moments.m});
    result.push_back({"optim.v." + parameter.name, moments.v});
  }
  return result;
}

}  // namespace longship
