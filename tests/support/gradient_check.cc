#include "tests/support/gradient_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/random.h"

namespace longship::testing {
namespace {

double element(const Tensor& packed, int64_t i) {
  return dispatch_floating(packed.dtype(), [&](auto tag) {
    using T = decltype(tag);
    return static_cast<double>(packed.data<T>()[i]);
  });
}

double project(const std::vector<Variable>& outputs) {
  double sum = 0;
  for (size_t o = 0; o < outputs.size(); ++o) {
    const Tensor packed = outputs[o].value().contiguous();
    for (int64_t i = 0; i < packed.numel(); ++i)
      sum += element(packed, i) * normal(77, o, static_cast<uint64_t>(i));
  }
  return sum;
}

}  // namespace

Tensor random_tensor(Context& ctx, Shape shape, uint64_t seed, double scale) {
  Tensor tensor = ctx.empty(std::move(shape), DType::kF64);
  double* data = tensor.data<double>();
  for (int64_t i = 0; i < tensor.numel(); ++i)
    data[i] = scale * normal(seed, 1, static_cast<uint64_t>(i));
  return tensor;
}

double relative_rms(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  if (a.shape() != b.shape()) return std::nan("");
  const Tensor x = a.contiguous(), y = b.contiguous();
  double difference = 0, reference = 0, own = 0;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double p = element(x, i), q = element(y, i);
    difference += (p - q) * (p - q);
    reference += q * q;
    own += p * p;
  }
  return reference > 0 ? std::sqrt(difference / reference) : std::sqrt(own);
}

void check_gradients(
    const std::function<std::vector<Variable>(Context&, const std::vector<Variable>&)>& function,
    const std::vector<Tensor>& inputs, double tolerance, int64_t max_probes) {
  TapeContext recorded;
  std::vector<Variable> leaves;
  for (const Tensor& input : inputs) {
    ASSERT_EQ(input.dtype(), DType::kF64);
    leaves.push_back(Variable::leaf(input.clone()));
  }
  const std::vector<Variable> outputs = function(recorded.ctx, leaves);
  for (size_t o = 0; o < outputs.size(); ++o) {
    Tensor grad = recorded.ctx.empty(outputs[o].shape(), outputs[o].dtype());
    dispatch_floating(grad.dtype(), [&](auto tag) {
      using T = decltype(tag);
      for (int64_t i = 0; i < grad.numel(); ++i)
        grad.data<T>()[i] =
            static_cast<T>(static_cast<Accumulator<T>>(normal(77, o, static_cast<uint64_t>(i))));
    });
    ASSERT_TRUE(outputs[o].requires_grad()) << "output " << o << " was not recorded";
    outputs[o].gradient()->add(recorded.ctx, grad);
  }
  recorded.tape.backward(recorded.ctx, outputs[0],
                         recorded.ctx.zeros(outputs[0].shape(), outputs[0].dtype()));

  Context plain;
  for (size_t n = 0; n < inputs.size(); ++n) {
    ASSERT_TRUE(leaves[n].gradient()->defined()) << "input " << n << " got no gradient";
    const Tensor analytic = leaves[n].gradient()->sum().contiguous();
    const int64_t count = inputs[n].numel();
    const int64_t probes = std::min(count, max_probes);
    for (int64_t probe = 0; probe < probes; ++probe) {
      const int64_t i = count * probe / probes;
      auto evaluate = [&](double step) {
        std::vector<Variable> shifted;
        for (const Tensor& input : inputs) shifted.emplace_back(input.clone());
        shifted[n].value().data<double>()[i] += step;
        return project(function(plain, shifted));
      };
      const double step = 1e-5;
      const double numeric = (evaluate(step) - evaluate(-step)) / (2 * step);
      const double found = element(analytic, i);
      const double error = std::abs(found - numeric);
      EXPECT_TRUE(error <= tolerance * std::max(1.0, std::abs(numeric)))
          << "input " << n << " element " << i << ": backward gives " << found
          << ", central difference " << numeric;
    }
  }
}

}  // namespace longship::testing
