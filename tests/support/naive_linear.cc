#include "tests/support/naive_linear.h"

#include <cmath>

namespace longship::testing {
namespace {

// A fp64 copy, or zeros where `tensor` is undefined.
Tensor widen(const Context& ctx, const Tensor& tensor, const Shape& shape) {
  const Tensor wide = ctx.zeros(shape, DType::kF64);
  if (tensor.defined()) wide.copy_from(tensor);
  return wide;
}

// One head of one segment; pointers go to its first row, `step` numbers apart for each token.
struct HeadRun {
  struct Rows {
    double* first = nullptr;
    int64_t step = 0;
    double* at(int64_t t) const { return first + t * step; }
  };

  int64_t length, K, V;
  double scale;
  bool is_delta, is_gated, is_vector_gate;
  Rows q, k, v, gate, beta, o;
  Rows grad_o, dq, dk, dv, dgate, dbeta;
  double* state;   // [K, V]: S_in, then S_out
  double* dstate;  // gradient of S_out, then of S_in

  // The decay of each row of the state.
  std::vector<double> decays(int64_t t) const {
    std::vector<double> decay(static_cast<size_t>(K), 1.0);
    for (int64_t d = 0; is_gated && d < K; ++d)
      decay[static_cast<size_t>(d)] = std::exp(gate.at(t)[is_vector_gate ? d : 0]);
    return decay;
  }

  // The states before the first token and after each; fills o.
  std::vector<std::vector<double>> forward() const {
    std::vector<std::vector<double>> states{{state, state + K * V}};
    for (int64_t t = 0; t < length; ++t) {
      std::vector<double> S = states.back();
      const std::vector<double> decay = decays(t);
      for (int64_t d = 0; d < K; ++d)
        for (int64_t j = 0; j < V; ++j)
          S[static_cast<size_t>(d * V + j)] *= decay[static_cast<size_t>(d)];
      for (int64_t j = 0; j < V; ++j) {
        double read = 0, out = 0;
        for (int64_t d = 0; d < K; ++d) read += k.at(t)[d] * S[static_cast<size_t>(d * V + j)];
        const double write = is_delta ? beta.at(t)[0] * (v.at(t)[j] - read) : v.at(t)[j];
        for (int64_t d = 0; d < K; ++d) {
          double& cell = S[static_cast<size_t>(d * V + j)];
          cell += k.at(t)[d] * write;
          out += q.at(t)[d] * cell;
        }
        o.at(t)[j] = scale * out;
      }
      states.push_back(std::move(S));
    }
    return states;
  }

  void backward(const std::vector<std::vector<double>>& states) const {
    std::vector<double> dS(dstate, dstate + K * V);
    for (int64_t t = length - 1; t >= 0; --t) {
      const std::vector<double>&before = states[static_cast<size_t>(t)],
            &after = states[static_cast<size_t>(t + 1)];
      const std::vector<double> decay = decays(t);
      for (int64_t j = 0; j < V; ++j) {
        auto cell = [&](int64_t d) { return static_cast<size_t>(d * V + j); };
        double read = 0, dwrite = 0;
        for (int64_t d = 0; d < K; ++d) {
          dq.at(t)[d] += scale * after[cell(d)] * grad_o.at(t)[j];
          dS[cell(d)] += scale * q.at(t)[d] * grad_o.at(t)[j];
          read += k.at(t)[d] * decay[static_cast<size_t>(d)] * before[cell(d)];
          dwrite += k.at(t)[d] * dS[cell(d)];
        }
        const double b = is_delta ? beta.at(t)[0] : 1.0;
        const double error = v.at(t)[j] - (is_delta ? read : 0.0);
        const double dread = is_delta ? -b * dwrite : 0.0;
        dv.at(t)[j] += b * dwrite;
        if (is_delta) dbeta.at(t)[0] += error * dwrite;
        for (int64_t d = 0; d < K; ++d) {
          const double decayed = decay[static_cast<size_t>(d)] * before[cell(d)];
          dk.at(t)[d] += b * error * dS[cell(d)] + decayed * dread;
          const double ddecayed = dS[cell(d)] + k.at(t)[d] * dread;
          if (dgate.first) dgate.at(t)[is_vector_gate ? d : 0] += ddecayed * decayed;
          dS[cell(d)] = ddecayed * decay[static_cast<size_t>(d)];
        }
      }
    }
    std::copy(dS.begin(), dS.end(), dstate);
  }
};

}  // namespace

NaiveLinear naive_linear(const Context& ctx, const LinearInput& input,
                         std::span<const Segment> segments, const NaiveLinearBorders& borders) {
  const int64_t T = input.q_TGK.dim(0), G = input.q_TGK.dim(1), K = input.q_TGK.dim(2);
  const int64_t H = input.v_THV.dim(1), V = input.v_THV.dim(2);
  const Shape states_shape{static_cast<int64_t>(segments.size()), H, K, V};
  const bool is_delta = input.beta_TH.defined(), is_gated = input.gate.defined();
  const bool is_constant = is_gated && input.gate.rank() == 1;
  const bool is_vector = is_gated && input.gate.rank() == 3;
  const int64_t gate_size = is_vector ? K : 1;

  const Tensor q = widen(ctx, input.q_TGK, {T, G, K}), k = widen(ctx, input.k_TGK, {T, G, K}),
               v = widen(ctx, input.v_THV, {T, H, V}), beta = widen(ctx, input.beta_TH, {T, H}),
               gate = widen(ctx, input.gate, is_gated ? input.gate.shape() : Shape{}),
               grad_o = widen(ctx, borders.do_THV, {T, H, V});
  auto zeros = [&](const Tensor& like) { return ctx.zeros(like.shape(), DType::kF64); };
  NaiveLinear result{.o_THV = zeros(v),
                     .states_NHKV = widen(ctx, borders.states_NHKV, states_shape),
                     .gradients = {.dq_TGK = zeros(q),
                                   .dk_TGK = zeros(k),
                                   .dv_THV = zeros(v),
                                   .dgate = is_gated && !is_constant ? zeros(gate) : Tensor(),
                                   .dbeta_TH = is_delta ? zeros(beta) : Tensor()},
                     .dstates_NHKV = widen(ctx, borders.dstates_NHKV, states_shape)};
  const LinearGradients& gradients = result.gradients;

  for (size_t n = 0; n < segments.size(); ++n)
    for (int64_t h = 0; h < H; ++h) {
      const int64_t slot = segments[n].slot, g = h / (H / G);
      const int64_t state = (static_cast<int64_t>(n) * H + h) * K * V;
      // Rows of head `head` of a [T, heads, size] tensor.
      auto rows = [&](const Tensor& x, int64_t heads, int64_t size, int64_t head) -> HeadRun::Rows {
        if (!x.defined()) return {};
        return {x.data<double>() + (slot * heads + head) * size, heads * size};
      };
      const HeadRun run{.length = segments[n].length,
                        .K = K,
                        .V = V,
                        .scale = input.scale,
                        .is_delta = is_delta,
                        .is_gated = is_gated,
                        .is_vector_gate = is_vector,
                        .q = rows(q, G, K, g),
                        .k = rows(k, G, K, g),
                        .v = rows(v, H, V, h),
                        .gate = is_constant ? HeadRun::Rows{gate.data<double>() + h, 0}
                                            : rows(gate, H, gate_size, h),
                        .beta = rows(beta, H, 1, h),
                        .o = rows(result.o_THV, H, V, h),
                        .grad_o = rows(grad_o, H, V, h),
                        .dq = rows(gradients.dq_TGK, G, K, g),
                        .dk = rows(gradients.dk_TGK, G, K, g),
                        .dv = rows(gradients.dv_THV, H, V, h),
                        .dgate = rows(gradients.dgate, H, gate_size, h),
                        .dbeta = rows(gradients.dbeta_TH, H, 1, h),
                        .state = result.states_NHKV.data<double>() + state,
                        .dstate = result.dstates_NHKV.data<double>() + state};
      const std::vector<std::vector<double>> states = run.forward();
      run.backward(states);
      std::copy(states.back().begin(), states.back().end(), run.state);
    }
  return result;
}

}  // namespace longship::testing
