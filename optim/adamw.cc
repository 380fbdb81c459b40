#include "optim/adamw.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>

#include "optim/adamw_cuda.h"
#include "optim/gradient_norm.h"
#include "runtime/gpu.h"
#include "runtime/parallel_for.h"
#include "runtime/random.h"

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

// A parameter with its gradient and moments.
template <class T, class Moment = T>
struct Elements {
  const T* gradient;
  T* p;
  Moment *m, *v;
};

template <class T>
void update(const Coefficients<T>& c, int64_t begin, int64_t end, const Elements<T>& elements) {
  const T* __restrict__ gradient = elements.gradient;
  T* __restrict__ p = elements.p, * __restrict__ m = elements.m, * __restrict__ v = elements.v;
  for (int64_t i = begin; i < end; ++i) {
    const T g = gradient[i] * c.gradient_scale;
    m[i] = c.beta1 * m[i] + c.one_minus_beta1 * g;
    v[i] = c.beta2 * v[i] + c.one_minus_beta2 * (g * g);
    const T denominator = std::sqrt(v[i]) * c.inverse_correction2 + c.epsilon;
    p[i] = c.keep * p[i] - c.step_size * (m[i] / denominator);
  }
}

// The neighbour of `value` in bf16 towards zero, or the one away from it with the probability that
// makes the mean right; `random` is uniform in [0, 2^16).
bf16 round_stochastically(float value, uint32_t random) {
  bf16 result;
  result.bits = static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + random) >> 16);
  return result;
}

// Where random numbers come from: block i / 4 is that of four elements, counted from the first of
// the whole parameter.
struct Rounding {
  uint64_t seed, stream;
  int64_t first_element;
};

// With moments in bf16: low halves of the random numbers for m, high ones for v.
void update_bf16(const Coefficients<float>& c, const Rounding& rounding, int64_t begin, int64_t end,
                 const Elements<float, bf16>& elements) {
  static_assert(kPieceElements % 4 == 0);
  bf16 *const m = elements.m, *const v = elements.v;
  for (int64_t first = begin; first < end; first = (first / 4 + 1) * 4) {
    const PhiloxBlock block = philox(rounding.seed, rounding.stream,
                                     static_cast<uint64_t>((rounding.first_element + first) / 4));
    for (int64_t i = first; i < std::min(end, (first / 4 + 1) * 4); ++i) {
      float wide_m = static_cast<float>(m[i]), wide_v = static_cast<float>(v[i]);
      update(c, 0, 1, {elements.gradient + i, elements.p + i, &wide_m, &wide_v});
      const uint32_t random = block[static_cast<size_t>(i % 4)];
      m[i] = round_stochastically(wide_m, random & 0xffffu);
      v[i] = round_stochastically(wide_v, random >> 16);
    }
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
    const bool narrow = options.bf16_moments && master.dtype() == DType::kF32;
    const DType dtype = narrow ? DType::kBF16 : master.dtype();
    moments_.push_back({ctx.zeros(master.shape(), dtype), ctx.zeros(master.shape(), dtype)});
  }
}

void AdamW::step(const Context& ctx, double learning_rate, double gradient_scale) {
  if (ctx.memory->device().kind == DeviceKind::kCpu)
    step_cpu(ctx, learning_rate, gradient_scale);
  else
    step_cuda(ctx, learning_rate, gradient_scale, {});
}

void AdamW::step(const Context& ctx, double learning_rate, const Clipping& clipping) {
  if (ctx.memory->device().kind != DeviceKind::kCpu)
    return step_cuda(ctx, learning_rate, 1, clipping);
  const double norm = std::sqrt(*clipping.squared_norm.data<double>());
  if (std::isfinite(norm))
    step_cpu(ctx, learning_rate, clip_scale(norm, clipping.max_norm));
  else
    ++num_steps_;
}

AdamW::Corrections AdamW::begin_step() {
  LONGSHIP_CHECK(parameters_->all().size() == moments_.size(), "{} parameters, {} moments",
                 parameters_->all().size(), moments_.size());
  const double t = static_cast<double>(++num_steps_);
  return {1 - std::pow(options_.beta1, t), 1 - std::pow(options_.beta2, t)};
}

void AdamW::step_cpu(const Context& ctx, double learning_rate, double gradient_scale) {
  const Corrections corrections = begin_step();
  size_t index = 0;
  for (Parameter& parameter : parameters_->all()) {
    const Moments& moments = moments_[index++];
    const Tensor& master = parameter.master;
    if (master.numel() == 0) continue;
    const Gradient& slot = *parameter.gradient;
    const Tensor gradient =
        slot.defined() ? slot.sum().contiguous() : ctx.zeros(master.shape(), master.dtype());
    const double decay = parameter.decay ? options_.weight_decay : 0;
    dispatch_floating(master.dtype(), [&](auto tag) {
      using T = Accumulator<decltype(tag)>;
      const Coefficients<T> c = {
          .gradient_scale = static_cast<T>(gradient_scale),
          .keep = static_cast<T>(1 - learning_rate * decay),
          .beta1 = static_cast<T>(options_.beta1),
          .one_minus_beta1 = static_cast<T>(1 - options_.beta1),
          .beta2 = static_cast<T>(options_.beta2),
          .one_minus_beta2 = static_cast<T>(1 - options_.beta2),
          .step_size = static_cast<T>(learning_rate / corrections.first),
          .inverse_correction2 = static_cast<T>(1 / std::sqrt(corrections.second)),
          .epsilon = static_cast<T>(options_.epsilon)};
      const T* g = gradient.data<T>();
      T* p = master.data<T>();
      parallel_for(ctx, master.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
        if constexpr (std::is_same_v<T, float>) {
          if (moments.m.dtype() == DType::kBF16)
            return update_bf16(c,
                               {.seed = static_cast<uint64_t>(num_steps_),
                                .stream = stream_of(parameter.name),
                                .first_element = parameter.first_element},
                               begin, end, {g, p, moments.m.data<bf16>(), moments.v.data<bf16>()});
        }
        update(c, begin, end, {g, p, moments.m.data<T>(), moments.v.data<T>()});
      });
    });
  }
  parameters_->refresh_compute_copies();
}

void AdamW::step_cuda(const Context& ctx, double learning_rate, double gradient_scale,
                      const Clipping& clipping) {
  const Corrections corrections = begin_step();
  std::vector<AdamWEntry> entries;
  std::vector<Tensor> packed;  // kept until the kernel is enqueued
  int64_t num_chunks = 0;
  size_t index = 0;
  for (Parameter& parameter : parameters_->all()) {
    const Moments& moments = moments_[index++];
    const Tensor& master = parameter.master;
    if (master.numel() == 0) continue;
    const Tensor& copy = parameter.copy;
    const Gradient& slot = *parameter.gradient;
    if (slot.defined()) packed.push_back(slot.sum().contiguous());
    entries.push_back({.gradient = slot.defined() ? packed.back().device_data<float>() : nullptr,
                       .master = master.device_data<float>(),
                       .m = moments.m.address(),
                       .v = moments.v.address(),
                       .copy = copy.defined() ? copy.address() : nullptr,
                       .num_elements = master.numel(),
                       .first_element = parameter.first_element,
                       .first_chunk = num_chunks,
                       .random_stream = stream_of(parameter.name),
                       .decays = parameter.decay});
    num_chunks += (master.numel() + kAdamWChunk - 1) / kAdamWChunk;
  }
  if (entries.empty() || !ctx.memory->has_elements()) return;
  const bool clips = clipping.squared_norm.defined();
  const Tensor entries_N = upload_table(ctx, std::span<const AdamWEntry>(entries));
  adamw_cuda({.entries_N = reinterpret_cast<const AdamWEntry*>(entries_N.address()),
              .num_entries = std::ssize(entries),
              .num_chunks = num_chunks,
              .moments_dtype = moments_[0].m.dtype(),
              .gradient_scale = gradient_scale,
              .squared_norm = clips ? clipping.squared_norm.device_data<double>() : nullptr,
              .max_norm = clipping.max_norm,
              .random_seed = static_cast<uint64_t>(num_steps_),
              .keep = static_cast<float>(1 - learning_rate * options_.weight_decay),
              .beta1 = static_cast<float>(options_.beta1),
              .one_minus_beta1 = static_cast<float>(1 - options_.beta1),
              .beta2 = static_cast<float>(options_.beta2),
              .one_minus_beta2 = static_cast<float>(1 - options_.beta2),
              .step_size = static_cast<float>(learning_rate / corrections.first),
              .inverse_correction2 = static_cast<float>(1 / std::sqrt(corrections.second)),
              .epsilon = static_cast<float>(options_.epsilon)},
             compute_stream(ctx));
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
