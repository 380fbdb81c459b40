#include "tests/support/naive_linear_mixer.h"

#include <cmath>
#include <functional>

#include "attention/linear/linear_parameter_names.h"
#include "tests/support/naive_linear.h"
#include "tests/support/naive_rows.h"

namespace longship::testing {
namespace {

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
double softplus(double x) {
  return x > 30 ? x : std::log1p(std::exp(x));
}

// Numbers by token and feature.
struct Table {
  int64_t rows = 0, columns = 0;
  std::vector<double> values;

  Table() = default;
  Table(int64_t num_rows, int64_t num_columns)
      : rows(num_rows),
        columns(num_columns),
        values(static_cast<size_t>(num_rows * num_columns), 0.0) {}
  double& at(int64_t row, int64_t column) {
    return values[static_cast<size_t>(row * columns + column)];
  }
  void map(const std::function<double(double, int64_t column)>& f) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column)
        at(row, column) = f(at(row, column), column);
  }
  Tensor tensor(const Context& ctx, Shape shape) const {
    return Tensor::from<double>(ctx.memory, std::move(shape), values);
  }
  static Table of(const Tensor& tensor, int64_t rows) {
    Table table(rows, rows == 0 ? 0 : tensor.numel() / rows);
    std::copy_n(tensor.data<double>(), tensor.numel(), table.values.begin());
    return table;
  }
};

class NaiveLinearMixer {
 public:
  NaiveLinearMixer(const Context& ctx, const LinearMixerOptions& options,
                   const ParameterList& parameters, const std::string& prefix, const Tensor& x_TE,
                   const SequencePlan& plan)
      : ctx_(ctx),
        options_(options),
        names_(LinearParameterNames::of(options.backend)),
        parameters_(parameters),
        module_(prefix + "." + names_.module + "."),
        plan_(plan),
        positions_(plan.positions(ctx)),
        x_(Table::of(x_TE, plan.num_tokens())) {}

  Tensor run() {
    const int64_t T = x_.rows, H = options_.num_heads, G = options_.key_heads();
    const int64_t K = options_.key_size, V = options_.value_size;
    Table q = key_side(names_.q), v = branch(names_.v, options_.silu_v);
    Table skipped = v;
    LinearInput input{.q_TGK = {}, .k_TGK = {}, .v_THV = {}, .gate = {}, .beta_TH = {}};
    Table k = decays(input, v);
    if (k.rows == 0) k = key_side(names_.k);
    if (options_.delta_rule) {
      Table beta = project(x_, "b_proj");
      beta.map([&](double b, int64_t) { return options_.max_beta * sigmoid(b); });
      input.beta_TH = beta.tensor(ctx_, {T, H});
    }
    Table o;
    if (options_.taylor_map) {
      o = taylor_attention(q, k, v);
    } else {
      input.scale = options_.scale == 0 ? 1 / std::sqrt(static_cast<double>(K)) : options_.scale;
      input.q_TGK = q.tensor(ctx_, {T, G, K});
      input.k_TGK = k.tensor(ctx_, {T, G, K});
      input.v_THV = v.tensor(ctx_, {T, H, V});
      o = Table::of(naive_linear(ctx_, input, plan_.local_segments()).o_THV, T);
    }
    if (options_.skip)
      for (int64_t t = 0; t < T; ++t)
        for (int64_t i = 0; i < H * V; ++i) o.at(t, i) += values("D")[i / V] * skipped.at(t, i);
    return project(finished(std::move(o)), names_.output).tensor(ctx_, {T, options_.hidden_size});
  }

 private:
  const double* values(const std::string& name) const {
    const Parameter* parameter = parameters_.find(module_ + name);
    return parameter == nullptr ? nullptr : parameter->master.data<double>();
  }

  Table project(Table x, const std::string& name) const {
    const Parameter* weight = parameters_.find(module_ + name + ".weight");
    const double* bias = values(name + ".bias");
    Table y(x.rows, weight->master.dim(0));
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t o = 0; o < y.columns; ++o) {
        y.at(t, o) = bias == nullptr ? 0 : bias[o];
        for (int64_t i = 0; i < x.columns; ++i)
          y.at(t, o) += weight->master.data<double>()[o * x.columns + i] * x.at(t, i);
      }
    return y;
  }

  Table project_by_rank(const ProjectionNames& names, int64_t rank) const {
    return rank == 0 ? project(x_, names.full) : project(project(x_, names.down), names.up);
  }

  // A projection behind its convolution, within documents, and SiLU.
  Table branch(const std::string& initial, bool silu) {
    Table y = project(x_, initial + "_proj");
    if (const double* taps = values(initial + "_conv1d.weight")) {
      const double* bias = values(initial + "_conv1d.bias");
      const int64_t W = options_.conv_size;
      Table before = y;
      for (int64_t t = 0; t < y.rows; ++t)
        for (int64_t c = 0; c < y.columns; ++c) {
          y.at(t, c) = bias == nullptr ? 0 : bias[c];
          for (int64_t back = 0; back < W && back <= positions_.data<int64_t>()[t]; ++back)
            y.at(t, c) += taps[c * W + W - 1 - back] * before.at(t - back, c);
        }
    }
    if (silu) y.map([](double z, int64_t) { return z * sigmoid(z); });
    return y;
  }

  // Queries or keys, normed and turned.
  Table key_side(const std::string& initial) {
    Table y = branch(initial, options_.silu_qk);
    const int64_t K = options_.key_size;
    for (int64_t t = 0; t < y.rows; ++t)
      for (int64_t g = 0; g < options_.key_heads(); ++g) {
        double* head = &y.at(t, g * K);
        if (options_.qk_norm == QkNorm::kRms)
          naive_rms_norm(head, K, values(initial + "_norm.weight"), options_.norm_eps);
        if (options_.qk_norm == QkNorm::kL2) {
          double square = 0;
          for (int64_t d = 0; d < K; ++d) square += head[d] * head[d];
          for (int64_t d = 0; d < K; ++d) head[d] /= std::sqrt(square + 1e-6);
        }
        if (options_.rope_theta > 0)
          naive_rope(head, options_.rotary_dim == 0 ? K : options_.rotary_dim,
                     positions_.data<int64_t>()[t], options_.rope_theta);
      }
    return y;
  }

  // Sets the gate, scales v by the step sizes, and returns keys that are tied to the gate.
  Table decays(LinearInput& input, Table& v) {
    const int64_t T = x_.rows, H = options_.num_heads, K = options_.key_size;
    Table keys;
    if (options_.gate == GateLaw::kNone) return keys;
    if (options_.gate == GateLaw::kConstant) {
      Table slopes(1, H);
      slopes.map([&](double, int64_t h) { return constant_decay(static_cast<double>(h)); });
      input.gate = slopes.tensor(ctx_, {H});
      return keys;
    }
    const int64_t rank = options_.gate_rank == -1 ? options_.value_size : options_.gate_rank;
    Table a = project_by_rank(names_.gate, rank);
    const int64_t per_head = options_.gate_per_key ? K : 1;
    const double* bias = values("dt_bias");
    auto step = [&](double z) {
      const double dt = std::max(softplus(z), options_.step_low);
      return options_.step_high > 0 ? std::min(dt, options_.step_high) : dt;
    };
    if (options_.step_size) {
      const int64_t V = options_.value_size;
      for (int64_t t = 0; t < T; ++t)
        for (int64_t i = 0; i < H * V; ++i) v.at(t, i) *= step(a.at(t, i / V) + bias[i / V]);
    }
    const double depth =
        static_cast<double>(options_.layer_index) / static_cast<double>(options_.num_layers);
    const double floor = options_.forget_floor < 0 ? depth : options_.forget_floor;
    if (options_.gate == GateLaw::kForget) {
      keys = a;
      keys.map([&](double z, int64_t) { return 1 - (floor + (1 - floor) * sigmoid(z)); });
    }
    a.map([&](double z, int64_t f) {
      const double rate = values("A_log") ? std::exp(values("A_log")[f / per_head]) : 0;
      switch (options_.gate) {
        case GateLaw::kSoftplus:
          return -rate * step(z + bias[f]);
        case GateLaw::kBounded:
          return options_.gate_lower_bound * sigmoid(rate * (z + bias[f]));
        case GateLaw::kLogSigmoid:
          return std::log(sigmoid(z)) / options_.gate_normalizer;
        default:
          return std::log(floor + (1 - floor) * sigmoid(z));
      }
    });
    input.gate = a.tensor(ctx_, options_.gate_per_key ? Shape{T, H, K} : Shape{T, H});
    return keys;
  }

  // The slopes of ALiBi for any number of heads, as its code recurses.
  static std::vector<double> alibi_slopes(int64_t num_heads) {
    int64_t power = 1;
    while (2 * power <= num_heads) power *= 2;
    std::vector<double> slopes;
    for (int64_t h = 1; h <= power; ++h)
      slopes.push_back(std::pow(2, -8 * static_cast<double>(h) / static_cast<double>(power)));
    if (num_heads == power) return slopes;
    const std::vector<double> finer = alibi_slopes(2 * power);
    for (int64_t i = 0; i < num_heads - power; ++i)
      slopes.push_back(finer[static_cast<size_t>(2 * i)]);
    return slopes;
  }

  double constant_decay(double h) const {
    if (options_.decay == DecayLaw::kRetention) return std::log(1 - std::pow(2, -5 - h));
    const double slope = alibi_slopes(options_.num_heads)[static_cast<size_t>(h)];
    if (options_.decay == DecayLaw::kAlibi) return -slope;
    const double last = static_cast<double>(options_.num_layers) - 1 + 1e-5;
    return -slope * (1 - static_cast<double>(options_.layer_index) / last + 1e-5);
  }

  // BASED as attention with weights 1 + s + s^2 / 2.
  Table taylor_attention(Table q, Table k, Table v) {
    const int64_t K = options_.key_size, V = options_.value_size;
    const int64_t per_group = options_.num_heads / options_.key_heads();
    Table o(v.rows, v.columns);
    for (int64_t t = 0; t < v.rows; ++t)
      for (int64_t h = 0; h < options_.num_heads; ++h) {
        double total = 0;
        for (int64_t i = t - positions_.data<int64_t>()[t]; i <= t; ++i) {
          double s = 0;
          for (int64_t d = 0; d < K; ++d)
            s += q.at(t, h / per_group * K + d) * k.at(i, h / per_group * K + d);
          s /= std::sqrt(static_cast<double>(K));
          const double weight = 1 + s + s * s / 2;
          total += weight;
          for (int64_t j = 0; j < V; ++j) o.at(t, h * V + j) += weight * v.at(i, h * V + j);
        }
        for (int64_t j = 0; options_.normalized && j < V; ++j) o.at(t, h * V + j) /= total;
      }
    return o;
  }

  Table finished(Table o) {
    const int64_t F = o.columns, V = options_.value_size;
    Table gate(o.rows, F);
    gate.map([](double, int64_t) { return 1.0; });
    if (options_.output_gate != OutputGate::kNone) {
      gate = project_by_rank(names_.output_gate,
                             options_.output_gate_rank == -1 ? V : options_.output_gate_rank);
      const bool silu = options_.output_gate == OutputGate::kSilu;
      gate.map([&](double z, int64_t) { return (silu ? z : 1) * sigmoid(z); });
    }
    int64_t D = F;
    if (options_.output_norm == OutputNorm::kHead) D = V;
    if (options_.output_norm == OutputNorm::kGroup) D = F / options_.key_heads();
    const double* weight = values(names_.norm + ".weight");
    for (int64_t t = 0; t < o.rows; ++t)
      for (int64_t first = 0; first < F; first += D) {
        double square = 0;
        for (int64_t i = first; i < first + D; ++i) {
          if (!options_.norm_before_gate) o.at(t, i) *= gate.at(t, i);
          square += o.at(t, i) * o.at(t, i);
        }
        for (int64_t i = first; i < first + D; ++i) {
          if (weight != nullptr)
            o.at(t, i) *= weight[options_.output_norm == OutputNorm::kHead ? i % V : i] /
                          std::sqrt(square / static_cast<double>(D) + options_.norm_eps);
          if (options_.norm_before_gate) o.at(t, i) *= gate.at(t, i);
        }
      }
    return o;
  }

  const Context& ctx_;
  const LinearMixerOptions& options_;
  LinearParameterNames names_;
  const ParameterList& parameters_;
  std::string module_;
  const SequencePlan& plan_;
  Tensor positions_;
  Table x_;
};

}  // namespace

Tensor naive_linear_mixer(const Context& ctx, const LinearMixerOptions& options,
                          const ParameterList& parameters, const std::string& prefix,
                          const Tensor& x_TE, const SequencePlan& plan) {
  return NaiveLinearMixer(ctx, options, parameters, prefix, x_TE, plan).run();
}

}  // namespace longship::testing
