// Speed of matrix products on a GPU, and of the head with its loss, at the shapes of a Llama of 1B
// parameters: time, TFLOP/s, and the share of what the GPU is rated for in bf16. Products are
// forward (with and without a residual), the gradient of the input, and that of the weight, added
// to a sum in fp32.
#include <functional>
#include <string>

#include "runtime/ops/linear_cross_entropy.h"
#include "runtime/ops/matmul.h"
#include "tests/bench/gpu_program.h"
#include "tests/bench/gpu_timing.h"

namespace longship {
namespace {

struct Layer {
  int64_t inputs, outputs;
};

void bench_layer(const Context& ctx, const RateReport& report, int64_t T, const Layer& layer) {
  const int64_t I = layer.inputs, O = layer.outputs;
  const double flop =
      2.0 * static_cast<double>(T) * static_cast<double>(I) * static_cast<double>(O);
  const std::string shape = fmt::format(" {}x{} {} tokens", I, O, T);
  const Tensor x_TI = random(ctx, {T, I}, DType::kBF16), y_TO = random(ctx, {T, O}, DType::kBF16);
  const Tensor w_OI = random(ctx, {O, I}, DType::kBF16), w_IO = w_OI.transpose(0, 1);
  const Tensor residual_TO = random(ctx, {T, O}, DType::kBF16);
  const Tensor dw_OI = ctx.zeros({O, I}, DType::kF32);
  auto add = [&](const std::string& name, const std::function<void()>& product) {
    report.add(name + shape, best_ms(ctx, product), flop);
  };
  add("forward", [&] { matmul(ctx, x_TI, w_IO, y_TO); });
  add("forward with residual", [&] { matmul_add(ctx, x_TI, w_IO, {{}, residual_TO}, y_TO); });
  add("input gradient", [&] { matmul(ctx, residual_TO, w_OI, x_TI); });
  add("input gradient added", [&] { matmul(ctx, residual_TO, w_OI, x_TI, true); });
  add("weight gradient added",
      [&] { matmul(ctx, residual_TO.transpose(0, 1), x_TI, dw_OI, true); });
  const Tensor sums_O = ctx.empty({O}, DType::kF32);
  const Tensor dy_OT = residual_TO.transpose(0, 1);
  if (matmul_with_row_sums(ctx, dy_OT, x_TI, dw_OI, dw_OI, sums_O))
    add("weight and bias gradient",
        [&] { matmul_with_row_sums(ctx, dy_OT, x_TI, dw_OI, dw_OI, sums_O); });
}

// Forward and both gradients of the head: three products, and a pass over the logits.
void bench_loss(Context ctx, const RateReport& report, int64_t T, int64_t chunk_tokens) {
  constexpr int64_t kHidden = 2048, kVocab = 128256;
  const Tensor h_TE = random(ctx, {T, kHidden}, DType::kBF16);
  const Tensor head_VE = random(ctx, {kVocab, kHidden}, DType::kBF16, 0.02);
  const auto host = std::make_shared<Memory>();
  const Tensor targets_T = Tensor::empty(host, {T}, DType::kI32);
  const Tensor weights_T = Tensor::empty(host, {T}, DType::kF32);
  for (int64_t t = 0; t < T; ++t) {
    targets_T.data<int32_t>()[t] =
        static_cast<int32_t>(uniform_index(1, 2, static_cast<uint64_t>(t), kVocab));
    weights_T.data<float>()[t] = 1;
  }
  const Tensor targets = targets_T.to(ctx.memory), weights = weights_T.to(ctx.memory);
  const double flop = 2.0 * static_cast<double>(T) * kHidden * kVocab;
  const std::string shape =
      fmt::format(" {}x{} {} tokens in chunks of {}", kHidden, kVocab, T, chunk_tokens);
  report.add("token losses" + shape,
             best_ms(ctx, [&] { token_cross_entropy(ctx, h_TE, head_VE, targets, chunk_tokens); }),
             flop);
  Tape tape;
  ctx.tape = &tape;
  const auto step = [&] {
    const Variable h(h_TE, std::make_shared<Gradient>(h_TE.shape(), DType::kBF16));
    const Variable head = Variable::leaf(head_VE);
    tape.backward(ctx, linear_cross_entropy(ctx, h, head, targets, weights, chunk_tokens),
                  1.0 / static_cast<double>(T));
  };
  report.add("loss and its gradients" + shape, best_ms(ctx, step), 3 * flop);
}

void run(const Context& ctx, int64_t num_tokens, bool json) {
  const RateReport report = flops_report(ctx, json);
  for (const Layer& layer : {Layer{2048, 2048}, {2048, 512}, {2048, 8192}, {8192, 2048}})
    bench_layer(ctx, report, num_tokens, layer);
  for (const int64_t chunk_tokens : {1024, 2048, 4096, 8192})
    bench_loss(ctx, report, num_tokens, chunk_tokens);
}

}  // namespace
}  // namespace longship

int main(int argc, char** argv) {
  int64_t num_tokens = 32768;
  CLI::App app("Speed of matrix products on a GPU, and of the head with its loss");
  app.add_option("--tokens", num_tokens)->check(CLI::PositiveNumber)->capture_default_str();
  return longship::run_gpu_program(app, argc, argv, [&](const longship::Context& ctx, bool json) {
    longship::run(ctx, num_tokens, json);
  });
}
