// The backends of the linear family as benchmark cases: random inputs of a length, and what one
// forward and backward has to compute and move.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "attention/linear/chunk_decay.h"
#include "attention/linear/decay_kernel.h"
#include "attention/linear/delta_kernel.h"
#include "runtime/context.h"
#include "tests/bench/work_amount.h"

namespace longship {

struct LinearBackend {
  const char* name;
  GateKind gate;
  bool delta = false;
  bool tied_keys = false;    // HGRN-2: k = 1 - e^g
  bool shared_keys = false;  // Mamba-2: one query/key head for all value heads
  int64_t K = 128, V = 128;
};

inline constexpr LinearBackend kLinearBackends[] = {
    {.name = "lightning", .gate = GateKind::kConstant},
    {.name = "simple_gla", .gate = GateKind::kScalar},
    {.name = "mamba2", .gate = GateKind::kScalar, .shared_keys = true, .V = 64},
    {.name = "gla", .gate = GateKind::kVector},
    {.name = "hgrn2", .gate = GateKind::kVector, .tied_keys = true},
    {.name = "delta_net", .gate = GateKind::kNone, .delta = true},
    {.name = "gated_delta", .gate = GateKind::kScalar, .delta = true},
    {.name = "kda", .gate = GateKind::kVector, .delta = true},
};

struct LinearCase {
  LinearBackend backend;
  LinearInput input;
  Tensor no_states_NHKV, do_THV;

  LinearCase(const Context& ctx, const LinearBackend& of, int64_t T, int64_t H) : backend(of) {
    const int64_t K = of.K, V = of.V, G = of.shared_keys ? 1 : H;
    const double unit = 1 / std::sqrt(static_cast<double>(K));
    uint64_t random = 1;
    // Uniform in [low, high), from Marsaglia's xorshift.
    auto uniform = [&](Shape shape, double low, double high) {
      const Tensor x = ctx.empty(std::move(shape), DType::kF32);
      for (int64_t i = 0; i < x.numel(); ++i) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        const double fraction = static_cast<double>(random >> 11) * 0x1p-53;
        x.data<float>()[i] = static_cast<float>(low + (high - low) * fraction);
      }
      return x;
    };
    input = {.q_TGK = uniform({T, G, K}, -1, 1),
             .k_TGK = uniform({T, G, K}, -1.7 * unit, 1.7 * unit),
             .v_THV = uniform({T, H, V}, -1, 1),
             .gate = of.gate == GateKind::kNone       ? Tensor()
                     : of.gate == GateKind::kConstant ? uniform({H}, -0.1, 0)
                     : of.gate == GateKind::kScalar   ? uniform({T, H}, -0.2, 0)
                                                      : uniform({T, H, K}, -0.2, 0),
             .beta_TH = of.delta ? uniform({T, H}, 0, 1) : Tensor(),
             .scale = unit};
    for (int64_t i = 0; of.tied_keys && i < input.k_TGK.numel(); ++i)
      input.k_TGK.data<float>()[i] = 1 - std::exp(input.gate.data<float>()[i]);
    no_states_NHKV = ctx.zeros({0, H, K, V}, DType::kF32);
    do_THV = uniform({T, H, V}, -1, 1);
  }

  // The tokens as whole documents of `length` tokens each; the last one may be shorter.
  std::vector<Segment> documents(int64_t length) const {
    std::vector<Segment> segments;
    const int64_t T = input.v_THV.dim(0);
    for (int64_t first = 0; first < T; first += length)
      segments.push_back(
          {.document = std::ssize(segments), .length = std::min(length, T - first), .slot = first});
    return segments;
  }

  void run_forward(Context& ctx, std::span<const Segment> segments) const {
    const auto forward = kernel().forward(ctx, input, segments, {});
    forward->intra(ctx);
    forward->outputs(ctx, no_states_NHKV);
  }
  void run_backward(Context& ctx, std::span<const Segment> segments) const {
    const auto backward = kernel().backward(ctx, input, segments, {}, no_states_NHKV, do_THV);
    backward->intra(ctx);
    backward->gradients(ctx, no_states_NHKV);
  }

  // Multiply-adds per token and head of the chunk form with chunks of C tokens, triangles counted
  // as half, recomputation included:
  //   delta rule   3 K V + C (K + V) forward,       9 K V + C (3 K + 2.5 V) backward
  //   without      2 K V + C (K + V) / 2 forward,   5 K V (6 with learned gates) + C (1.5 K + V)
  WorkAmount forward_work() const {
    const double K = double(backend.K), V = double(backend.V), C = LinearProblem::kChunkSize;
    const double products = backend.delta ? 3 * K * V + C * (K + V) : 2 * K * V + C * (K + V) / 2;
    return {2 * products * heads(), 4 * (keys() + values() + gates() + values())};
  }
  WorkAmount backward_work() const {
    const double K = double(backend.K), V = double(backend.V), C = LinearProblem::kChunkSize;
    const bool learned = backend.gate == GateKind::kScalar || backend.gate == GateKind::kVector;
    const double products = backend.delta ? 9 * K * V + C * (3 * K + 2.5 * V)
                                          : (learned ? 6 : 5) * K * V + C * (1.5 * K + V);
    return {2 * products * heads(), 4 * (2 * (keys() + values() + gates()) + values())};
  }

 private:
  const LinearKernel& kernel() const {
    static const DeltaKernel delta;
    static const DecayKernel decay;
    return backend.delta ? static_cast<const LinearKernel&>(delta) : decay;
  }
  // Numbers per token.
  double heads() const { return double(input.v_THV.dim(1)); }
  double keys() const { return 2.0 * double(input.q_TGK.dim(1) * backend.K); }
  double values() const { return heads() * double(backend.V); }
  double gates() const {
    const double of_gate = backend.gate == GateKind::kVector   ? heads() * double(backend.K)
                           : backend.gate == GateKind::kScalar ? heads()
                                                               : 0;
    return of_gate + (backend.delta ? heads() : 0);
  }
};

}  // namespace longship
