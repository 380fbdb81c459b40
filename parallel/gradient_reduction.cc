#include "parallel/gradient_reduction.h"

#include <algorithm>
#include <deque>
#include <vector>

namespace longship {
namespace {

constexpr const char* kLabel = "gradients";

// While this many buckets travel, the next one is packed; more would only take memory.
constexpr size_t kBucketsInFlight = 4;

// A run of gradient elements that travels as one message: a flat tensor of its own, made of the
// gradients in `parts`, or a slice of one long gradient, reduced in place.
struct Bucket {
  Tensor flat;
  std::vector<Tensor> parts;  // flat views of the gradients packed here, in order
  Work work;
};

void unpack(const Bucket& bucket) {
  int64_t begin = 0;
  for (const Tensor& part : bucket.parts) {
    part.copy_from(bucket.flat.slice(0, begin, part.numel()));
    begin += part.numel();
  }
}

class Pipeline {
 public:
  Pipeline(Context& ctx, const Group& group) : ctx_(ctx), group_(group) {}

  void reduce_in_place(const Tensor& flat) { launch({.flat = flat, .parts = {}, .work = {}}); }

  void reduce_packed(std::vector<Tensor> parts) {
    if (parts.empty()) return;
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

  void finish() {
    while (!in_flight_.empty()) retire_oldest();
  }

 private:
  void launch(Bucket bucket) {
    if (in_flight_.size() == kBucketsInFlight) retire_oldest();
    bucket.work = group_.all_reduce(kLabel, bucket.flat);
    in_flight_.push_back(std::move(bucket));
  }

  void retire_oldest() {
    in_flight_.front().work.wait();
    unpack(in_flight_.front());
    in_flight_.pop_front();
  }

  Context& ctx_;
  const Group& group_;
  std::deque<Bucket> in_flight_;
};

}  // namespace

void all_reduce_gradients(Context& ctx, ParameterList& parameters, const Group& group,
                          const GradientReduction& options) {
  Pipeline pipeline(ctx, group);
  std::vector<Tensor> small;  // gradients that wait for the bucket to fill
  int64_t small_bytes = 0;
  auto flush = [&] {
    pipeline.reduce_packed(std::exchange(small, {}));
    small_bytes = 0;
  };
  for (Parameter& parameter : parameters.all()) {
    const Tensor gradient = parameter.variable.gradient()->accumulate_into(ctx).reshape({-1});
    if (group.size() == 1) continue;
    const int64_t bucket_elements =
        std::max<int64_t>(options.bucket_bytes / dtype_size(gradient.dtype()), 1);
    if (gradient.numel() >= bucket_elements) {
      for (int64_t begin = 0; begin < gradient.numel(); begin += bucket_elements)
        pipeline.reduce_in_place(
            gradient.slice(0, begin, std::min(bucket_elements, gradient.numel() - begin)));
      continue;
    }
    const bool fits = small_bytes + gradient.num_bytes() <= options.bucket_bytes;
    if (!small.empty() && (!fits || small[0].dtype() != gradient.dtype())) flush();
    small_bytes += gradient.num_bytes();
    small.push_back(gradient);
  }
  flush();
  pipeline.finish();
}

}  // namespace longship
