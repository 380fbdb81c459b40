#include "parallel/gradient_reduction.h"

#include <algorithm>

namespace longship {
namespace {

constexpr const char* kLabel = "gradients";

// Packed buckets, which take memory, that travel at one time.
constexpr int64_t kPackedInFlight = 8;

}  // namespace

// A run of gradient elements that travels as one message: a flat tensor of its own, made of the
// gradients in `parts`, or a slice of one long gradient, reduced in place.
struct GradientReduction::Bucket {
  Tensor flat;
  std::vector<Tensor> parts;  // flat views of the gradients packed here, in order
  Work work;

  void unpack() const {
    int64_t begin = 0;
    for (const Tensor& part : parts) {
      part.copy_from(flat.slice(0, begin, part.numel()));
      begin += part.numel();
    }
  }
};

GradientReduction::GradientReduction(Context& ctx, ParameterList& parameters, const Group& group,
                                     const GradientReductionOptions& options)
    : ctx_(ctx),
      parameters_(parameters),
      group_(group),
      options_(options),
      handed_over_(parameters.all().size()) {}

GradientReduction::~GradientReduction() = default;

void GradientReduction::launch(Bucket bucket) {
  bucket.work = group_.all_reduce(kLabel, bucket.flat);
  in_flight_.push_back(std::move(bucket));
}

void GradientReduction::retire_oldest() {
  in_flight_.front().work.wait();
  in_flight_.front().unpack();
  in_flight_.pop_front();
}

void GradientReduction::launch_packed(std::vector<Tensor> parts) {
  if (parts.empty()) return;
  auto is_packed = [](const Bucket& bucket) { return !bucket.parts.empty(); };
  while (std::ranges::count_if(in_flight_, is_packed) >= kPackedInFlight) retire_oldest();
  int64_t count = 0;
  for (const Tensor& part : parts) count += part.numel();
  const Tensor flat = ctx_.empty({count}, parts[0].dtype());
  int64_t begin = 0;
  for (const Tensor& part : parts) {
    flat.slice(0, begin, part.numel()).copy_from(part);
    begin += part.numel();
  }
  launch({.flat = flat, .parts = std::move(parts), .work = {}});
}

void GradientReduction::begin_from(size_t first) {
  LONGSHIP_CHECK(first <= handed_over_, "parameters from {} on, after those from {}", first,
                 handed_over_);
  std::vector<Tensor> small;  // gradients that wait for the bucket to fill
  int64_t small_bytes = 0;
  for (size_t i = first; i < handed_over_; ++i) {
    const Tensor gradient =
        parameters_.all()[i].variable.gradient()->accumulate_into(ctx_).reshape({-1});
    if (group_.size() == 1) continue;
    const int64_t bucket_elements =
        std::max<int64_t>(options_.bucket_bytes / dtype_size(gradient.dtype()), 1);
    if (gradient.numel() >= bucket_elements) {
      for (int64_t begin = 0; begin < gradient.numel(); begin += bucket_elements) {
        const int64_t count = std::min(bucket_elements, gradient.numel() - begin);
        launch({.flat = gradient.slice(0, begin, count), .parts = {}, .work = {}});
      }
      continue;
    }
    const bool fits = small_bytes + gradient.num_bytes() <= options_.bucket_bytes;
    if (!small.empty() && (!fits || small[0].dtype() != gradient.dtype())) {
      launch_packed(std::exchange(small, {}));
      small_bytes = 0;
    }
    small_bytes += gradient.num_bytes();
    small.push_back(gradient);
  }
  launch_packed(std::move(small));
  handed_over_ = first;
}

void GradientReduction::finish() {
  begin_from(0);
  while (!in_flight_.empty()) retire_oldest();
}

}  // namespace longship
