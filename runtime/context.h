// Context: what every op needs and nothing global — memory, threads, GPU, the tape being recorded.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "runtime/memory.h"
#include "runtime/tensor.h"

namespace longship {

class KeptOutputs;
class Tape;
struct Gpu;
struct LongLived;

struct Context {
  // Of the device that ops run on.
  std::shared_ptr<Memory> memory = std::make_shared<Memory>();
  // The streams of that device; null on the CPU. See gpu_context() in runtime/gpu.h.
  std::shared_ptr<const Gpu> gpu;
  int num_threads = 1;
  // Ops record themselves here; null means inference (nothing is saved).
  Tape* tape = nullptr;
  // Of the block that runs again in the backward; see runtime/autograd/kept_outputs.h.
  KeptOutputs* kept = nullptr;
  // Of work that may run again without its ops, in memory used anew each time; see
  // runtime/long_lived.h.
  LongLived* long_lived = nullptr;
  // Libraries whose fastest kernels do not repeat their bits (cuDNN's attention backward) take
  // slower ones that do. Our own kernels always do.
  bool deterministic = false;
  // Every op output is checked, and the first NaN or infinity throws Error(kNonFinite) naming op
  // and scope. Slow: switched on to explain a non-finite loss.
  bool check_finite = false;
  // Where in the model the caller is, such as "layers.3.mixer"; see Scope.
  std::string scope;

  Tensor empty(Shape shape, DType dtype) const {
    return Tensor::empty(memory, std::move(shape), dtype);
  }
  Tensor zeros(Shape shape, DType dtype) const {
    return Tensor::zeros(memory, std::move(shape), dtype);
  }
};

// Appends ".name" to ctx.scope for its lifetime.
class Scope {
 public:
  Scope(Context& ctx, std::string_view name) : ctx_(ctx), length_(ctx.scope.size()) {
    if (!ctx.scope.empty()) ctx.scope += '.';
    ctx.scope += name;
  }
  ~Scope() { ctx_.scope.resize(length_); }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  Context& ctx_;
  size_t length_;
};

}  // namespace longship
