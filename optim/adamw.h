// AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019, algorithm 2).
//
//   g = scale * gradient                       scale: clipping, see gradient_norm.h
//   p = p * (1 - rate * weight_decay)          only where Parameter::decay
//   m = beta1 * m + (1 - beta1) * g
//   v = beta2 * v + (1 - beta2) * g^2
//   p = p - rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon),   t = 1, 2, ...
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/model/parameter.h"
#include "runtime/named_tensor.h"

namespace longship {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  // Moments of fp32 masters in bf16: half their memory. They are rounded up or down at random
  // (runtime/random.h: seed is the step, stream the parameter's name), so that changes smaller than
  // half a unit in the last place are not lost.
  bool bf16_moments = false;
};

// The clipping of gradients whose norm need not be known to the host yet.
struct Clipping {
  Tensor squared_norm;  // fp64, one element on the device of the parameters: gradient_norm.h
  double max_norm = 0;  // 0: off
};

class AdamW {
 public:
  // Moments are zeros in the dtype of the masters (fp32, fp64 in tests) or bf16, in the order of
  // `parameters`, which must outlive this object and keep its length. Options outside their range
  // throw Error(kConfig).
  AdamW(const Context& ctx, ParameterList& parameters, AdamWOptions options);

  // One update of every master from its summed gradient, and of its compute copy: on a GPU in one
  // launch. A parameter that no gradient reached counts as gradient zero. Elementwise: the result
  // does not depend on ctx.num_threads.
  void step(const Context& ctx, double learning_rate, double gradient_scale = 1.0);
  // The same with clip_scale() of that norm; the host does not wait for a GPU. If the norm is not
  // finite, nothing but num_steps() changes.
  void step(const Context& ctx, double learning_rate, const Clipping& clipping);

  // Updates done so far (t of the bias correction); set it when the state is restored.
  int64_t num_steps() const { return num_steps_; }
  void set_num_steps(int64_t num_steps) { num_steps_ = num_steps; }

  // The moments as "optim.m.<parameter>" and "optim.v.<parameter>", of one parameter after another
  // and in the shapes of their masters; views, so reading a checkpoint into them restores the
  // optimizer.
  std::vector<NamedTensor> state() const;

 private:
  struct Moments {
    Tensor m;
    Tensor v;
  };

  void step_cpu(const Context& ctx, double learning_rate, double gradient_scale);
  void step_cuda(const Context& ctx, double learning_rate, double gradient_scale,
                 const Clipping& clipping);
  // Begins a step; returns 1 - beta1^t and 1 - beta2^t.
  struct Corrections {
    double first, second;
  };
  Corrections begin_step();

  ParameterList* parameters_;
  AdamWOptions options_;
  std::vector<Moments> moments_;
  int64_t num_steps_ = 0;
};

}  // namespace longship
