// Speed of ops on a GPU that should be bound by its memory: time, GB/s, and the share of what a
// plain copy of as many bytes reaches. Bytes are what an op must read and write once; they come
// from memory, as the cache holds something else before.
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "optim/adamw.h"
#include "optim/gradient_norm.h"
#include "runtime/ops/accumulate.h"
#include "runtime/ops/add.h"
#include "runtime/ops/cross_entropy_rows_cuda.h"
#include "runtime/ops/embedding.h"
#include "runtime/ops/embedding_cuda.h"
#include "runtime/ops/merge_partials.h"
#include "runtime/ops/rms_norm.h"
#include "runtime/ops/rope.h"
#include "runtime/ops/scale.h"
#include "runtime/ops/sigmoid_gate.h"
#include "runtime/ops/silu.h"
#include "runtime/ops/sink_logit.h"
#include "runtime/ops/softmax_delta.h"
#include "runtime/ops/split.h"
#include "runtime/ops/swiglu.h"
#include "tests/bench/gpu_program.h"
#include "tests/bench/gpu_timing.h"

namespace longship {
namespace {

// Milliseconds of the GPU for `timed`; `prepare` runs before each. A copy in between fills the
// cache.
double cold_ms(const Context& ctx, const std::function<void()>& prepare,
               const std::function<void()>& timed) {
  constexpr int64_t kFillBytes = int64_t{1} << 29;
  const Tensor from = ctx.empty({kFillBytes}, DType::kU8), to = ctx.empty({kFillBytes}, DType::kU8);
  auto before = [&] {
    prepare();
    to.copy_from(from);
  };
  return best_ms(ctx, 27, before, timed);
}

double cold_ms(const Context& ctx, const std::function<void()>& timed) {
  return cold_ms(ctx, timed, timed);
}

// Bytes a second of a copy that reads and writes `bytes` in all.
double copy_rate(const Context& ctx, double bytes) {
  const auto one_way = std::max<int64_t>(1, static_cast<int64_t>(bytes / 2));
  const Tensor from = ctx.zeros({one_way}, DType::kU8), to = ctx.zeros({one_way}, DType::kU8);
  const double ms = cold_ms(
      ctx, [] {}, [&] { to.copy_from(from); });
  return 2e3 * static_cast<double>(one_way) / ms;
}

// The same, measured once for an amount.
class CopyRates {
 public:
  explicit CopyRates(const Context& ctx) : ctx_(ctx) {}
  double of(double bytes) {
    const auto [rate, is_new] = rates_.try_emplace(bytes, 0);
    if (is_new) rate->second = copy_rate(ctx_, bytes);
    return rate->second;
  }

 private:
  const Context& ctx_;
  std::map<double, double> rates_;
};

// The output of an op: its gradient stays in its dtype.
Variable activation(const Tensor& value) {
  return Variable(value, std::make_shared<Gradient>(value.shape(), value.dtype()));
}

struct OpCase {
  std::string op, shape;
  std::function<Variable(Context&)> function;  // with a tape or without
  Tensor dy;
  int64_t forward_bytes = 0, backward_bytes = 0;  // none: not measured
};

void bench_op(Context ctx, const RateReport& report, const OpCase& c) {
  auto forward = [&] { c.function(ctx); };
  report.add(c.op + " forward " + c.shape, cold_ms(ctx, forward), c.forward_bytes);
  if (c.backward_bytes == 0) return;
  Tape tape;
  ctx.tape = &tape;
  Variable y;
  auto record = [&] {
    tape.clear();
    y = c.function(ctx);
    ctx.gpu->copy->synchronize();  // what an op prepares beside the forward
  };
  report.add(c.op + " backward " + c.shape,
             cold_ms(ctx, record, [&] { tape.backward(ctx, y, c.dy); }), c.backward_bytes);
}

std::string shape_name(DType dtype, int64_t R, int64_t D) {
  return fmt::format("{} {}x{}", dtype_name(dtype), R, D);
}

void bench_rms_norm(const Context& ctx, const RateReport& report, int64_t R, int64_t D,
                    DType dtype) {
  const Tensor x_RD = random(ctx, {R, D}, dtype), weight_D = random(ctx, {D}, dtype);
  const Tensor dy_RD = random(ctx, {R, D}, dtype), residual_RD = random(ctx, {R, D}, dtype);
  const int64_t size = x_RD.num_bytes();
  const std::string shape = shape_name(dtype, R, D);
  auto norm = [&](Context& c, const Variable& x) {
    return rms_norm(c, x, Variable::leaf(weight_D), 1e-5);
  };
  bench_op(ctx, report,
           {"rms_norm", shape, [&](Context& c) { return norm(c, activation(x_RD)); }, dy_RD,
            2 * size, 3 * size});
  // x has a gradient from the residual connection already, which is added to in place.
  const auto residual = [&](Context& c) {
    const Variable x = activation(x_RD);
    if (c.tape != nullptr) x.gradient()->add(c, residual_RD.clone());
    return norm(c, x);
  };
  bench_op(ctx, report, {"rms_norm residual", shape, residual, dy_RD, 2 * size, 4 * size});
}

// Ops that read and write whole tensors.
void bench_elementwise(const Context& ctx, const RateReport& report, int64_t R, int64_t D,
                       DType dtype) {
  const Tensor a = random(ctx, {R, D}, dtype), b = random(ctx, {R, D}, dtype);
  const Tensor dy = random(ctx, {R, D}, dtype);
  const int64_t size = a.num_bytes();
  auto bench = [&](const char* op, auto function, int64_t forward, int64_t backward) {
    bench_op(ctx, report,
             {op, shape_name(dtype, R, D),
              [&](Context& c) { return function(c, activation(a), activation(b)); }, dy,
              forward * size, backward * size});
  };
  using V = const Variable&;
  bench(
      "add", [](Context& c, V x, V y) { return add(c, x, y); }, 3, 0);
  bench(
      "swiglu", [](Context& c, V x, V y) { return swiglu(c, x, y); }, 3, 5);
  bench(
      "sigmoid_gate", [](Context& c, V x, V y) { return sigmoid_gate(c, x, y); }, 3, 5);
  bench(
      "silu", [](Context& c, V x, V) { return silu(c, x); }, 2, 3);
  bench(
      "scale", [](Context& c, V x, V) { return scale(c, x, 0.5); }, 2, 2);
  const Tensor sums = random(ctx, {R, D}, DType::kF32);
  auto sum = [&] { accumulate(ctx, sums, a); };
  report.add("accumulate " + shape_name(dtype, R, D), cold_ms(ctx, sum),
             2 * sums.num_bytes() + size);
}

// q, k and v out of one projection.
void bench_split(const Context& ctx, const RateReport& report, int64_t T, int64_t H, int64_t K,
                 DType dtype) {
  const std::vector<int64_t> sizes = {H, K, K};
  const Tensor x = random(ctx, {T, H + 2 * K}, dtype);
  auto copy = [&] {
    Context c = ctx;
    split(c, x, sizes);
  };
  report.add(fmt::format("split {} {}x({}+{}+{})", dtype_name(dtype), T, H, K, K),
             cold_ms(ctx, copy), 2 * x.num_bytes());
}

// Heads before tokens.
void bench_transpose(const Context& ctx, const RateReport& report, int64_t T, int64_t H, int64_t D,
                     DType dtype) {
  const Tensor x_THD = random(ctx, {T, H, D}, dtype);
  auto copy = [&] { x_THD.transpose(0, 1).clone(); };
  report.add(fmt::format("heads first {} {}x{}x{}", dtype_name(dtype), T, H, D), cold_ms(ctx, copy),
             2 * x_THD.num_bytes());
}

// Ids as frequent as in text: the first thousandth of them makes a sixth of the tokens.
void bench_embedding(const Context& ctx, const RateReport& report, int64_t V, int64_t T, int64_t E,
                     DType dtype) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < T; ++t)
    ids.push_back(static_cast<int32_t>(static_cast<double>(V) *
                                       std::pow(uniform(1, 2, static_cast<uint64_t>(t)), 4)));
  const auto num_rows = static_cast<int64_t>(std::set<int32_t>(ids.begin(), ids.end()).size());
  const Tensor ids_T = Tensor::from<int32_t>(ctx.memory, {T}, ids);
  const Variable table_VE = Variable::leaf(random(ctx, {V, E}, dtype));
  const Tensor dy_TE = random(ctx, {T, E}, dtype);
  bench_op(
      ctx, report,
      {"embedding", fmt::format("{}, V={}", shape_name(dtype, T, E), V),
       [&](Context& c) { return embedding(c, table_VE, ids_T); }, dy_TE,
       dy_TE.num_bytes() + num_rows * E * dtype_size(dtype), dy_TE.num_bytes() + num_rows * E * 8});
  // What goes on beside the forward for it.
  const Tensor sorted_22T = ctx.empty({2, 2, T}, DType::kI32);
  const Tensor scratch = ctx.empty({embedding_sort_bytes(T)}, DType::kU8);
  const Tensor chunks_C4 = ctx.empty({embedding_num_chunks(T), 4}, DType::kI32);
  const Tensor num_done_BC =
      ctx.empty({embedding_num_column_blocks(E), chunks_C4.dim(0)}, DType::kI32);
  auto plan = [&] {
    plan_embedding_backward_cuda(
        {.num_ids = V,
         .num_tokens = T,
         .num_features = E,
         .ids_T = ids_T.device_data<int32_t>(),
         .sorted_22T = sorted_22T.device_data<int32_t>(),
         .sort_scratch = scratch.address(),
         .chunks_C = reinterpret_cast<EmbeddingChunk*>(chunks_C4.address()),
         .num_done_BC = num_done_BC.device_data<int32_t>()},
        compute_stream(ctx));
  };
  report.add(fmt::format("embedding plan of {} ids, V={}", T, V), cold_ms(ctx, plan), T * 12);
}

void bench_rope(Context ctx, const RateReport& report, int64_t T, int64_t H, int64_t D,
                DType dtype) {
  Tape tape;
  const Tensor x_THD = random(ctx, {T, H, D}, dtype), dy_THD = random(ctx, {T, H, D}, dtype);
  std::vector<int64_t> positions(static_cast<size_t>(T));
  std::iota(positions.begin(), positions.end(), 0);
  const auto host = std::make_shared<Memory>();
  const RopeAngles angles =
      rope_angles(ctx, Tensor::from<int64_t>(host, {T}, positions), D, 5e5, DType::kF32);
  const std::string shape = fmt::format("{} {}x{}x{}", dtype_name(dtype), T, H, D);
  const int64_t bytes = 2 * x_THD.num_bytes() + 2 * angles.cos_TR.num_bytes();
  auto forward = [&] { return rope(ctx, x_THD, angles); };
  report.add("rope forward " + shape, cold_ms(ctx, forward), bytes);
  ctx.tape = &tape;
  Variable y;
  auto record = [&] {
    tape.clear();
    y = rope(ctx, Variable(x_THD, std::make_shared<Gradient>(x_THD.shape(), dtype)), angles);
  };
  report.add("rope backward " + shape, cold_ms(ctx, record, [&] { tape.backward(ctx, y, dy_THD); }),
             bytes);
}

// Losses and gradients of rows of logits, which bf16 gradients replace.
void bench_cross_entropy(const Context& ctx, const RateReport& report, int64_t R, int64_t V) {
  constexpr int64_t kDistinct = 16;
  const Tensor some_RV = random(ctx, {kDistinct, V}, DType::kF32);
  const Tensor logits_RV = ctx.empty({R, V}, DType::kF32);
  const Tensor targets_R = ctx.zeros({R}, DType::kI32), losses_R = ctx.empty({R}, DType::kF32);
  auto fill = [&] {
    for (int64_t r = 0; r < R; r += kDistinct) logits_RV.slice(0, r, kDistinct).copy_from(some_RV);
  };
  auto rows = [&] {
    cross_entropy_rows_cuda({.num_rows = R,
                             .vocab_size = V,
                             .row_stride = V,
                             .logits_RV = logits_RV.device_data<float>(),
                             .targets_R = targets_R.device_data<int32_t>(),
                             .losses_R = losses_R.device_data<float>(),
                             .wants_gradients = true,
                             .gradient_dtype = DType::kBF16},
                            compute_stream(ctx));
  };
  report.add(fmt::format("cross_entropy rows {}x{}", R, V), cold_ms(ctx, fill, rows), R * V * 6);
}

// What schedules do with partial results: a merge in fp32, the last merge, and the row sums.
void bench_partials(const Context& ctx, const RateReport& report, int64_t T, int64_t H, int64_t V) {
  const Tensor o = random(ctx, {T, H, V}, DType::kF32), lse = random(ctx, {T, H}, DType::kF32);
  const Tensor part = random(ctx, {T, H, V}, DType::kBF16);
  const Tensor part_lse = random(ctx, {T, H}, DType::kF32);
  const Tensor out = ctx.empty({T, H, V}, DType::kBF16);
  const std::string shape = fmt::format("{}x{}x{}", T, H, V);
  const int64_t lse_bytes = 3 * lse.num_bytes();
  auto merge = [&] { merge_partials(ctx, o, lse, part, part_lse); };
  report.add("merge_partials bf16 into fp32 " + shape, cold_ms(ctx, merge),
             2 * o.num_bytes() + part.num_bytes() + lse_bytes);
  auto last = [&] { merge_partials_into(ctx, out, o, lse, part, part_lse); };
  report.add("merge_partials last, to bf16 " + shape, cold_ms(ctx, last),
             o.num_bytes() + part.num_bytes() + out.num_bytes() + lse_bytes);
  auto delta = [&] { softmax_delta(ctx, part, out); };
  report.add("softmax_delta bf16 " + shape, cold_ms(ctx, delta),
             part.num_bytes() + out.num_bytes() + lse.num_bytes());
  const Tensor sinks = random(ctx, {H}, DType::kF32);
  auto sink = [&] { add_sink_logit(ctx, sinks, out, lse); };
  report.add("add_sink_logit bf16 " + shape, cold_ms(ctx, sink),
             2 * out.num_bytes() + 2 * lse.num_bytes());
}

// Over the tensors of a model of `num_layers` layers of the Llama 1B shape.
void bench_optimizer(Context ctx, const RateReport& report, int num_layers, bool bf16_moments) {
  ParameterList parameters(ctx, DType::kBF16, 1);
  const Initializer zeros{Initializer::Kind::kConstant, 0};
  for (int layer = 0; layer < num_layers; ++layer) {
    auto add = [&](const char* name, Shape shape) {
      parameters.add(fmt::format("{}.{}", layer, name), std::move(shape), zeros, true);
    };
    add("qkv", {3072, 2048});
    add("out", {2048, 2048});
    add("gate_up", {16384, 2048});
    add("down", {2048, 8192});
    add("norm", {2048});
  }
  for (Parameter& parameter : parameters.all())
    parameter.variable.gradient()->add(ctx, random(ctx, parameter.master.shape(), DType::kF32));
  const int64_t count = parameters.num_elements();
  const std::string shape =
      fmt::format("{} tensors, {} M elements", parameters.all().size(), count / 1'000'000);
  AdamW optimizer(ctx, parameters, {.bf16_moments = bf16_moments});
  const Tensor norm = squared_gradient_norm(ctx, parameters);
  auto step = [&] { optimizer.step(ctx, 1e-3, Clipping{norm, 1.0}); };
  // Gradient, master twice, both moments twice, compute copy.
  report.add(fmt::format("adamw {} moments, {}", bf16_moments ? "bf16" : "fp32", shape),
             cold_ms(ctx, step), count * (bf16_moments ? 22 : 30));
  if (bf16_moments) return;
  auto squares = [&] { squared_gradient_norm(ctx, parameters); };
  report.add("gradient norm, " + shape, cold_ms(ctx, squares), count * 4);
}

void run(const Context& ctx, bool json) {
  CopyRates rates(ctx);
  if (!json)
    std::printf("a copy of 2 GiB reads and writes %.0f GB/s\n\n",
                1e-9 * rates.of(static_cast<double>(int64_t{1} << 32)));
  const RateReport report({.unit = "GB/s",
                           .json_unit = "gb_per_s",
                           .in_unit = 1e9,
                           .bound = "of copy",
                           .json_share = "share_of_copy",
                           .highest = [&](double bytes) { return rates.of(bytes); }},
                          json);
  const std::pair<int64_t, int64_t> shapes[] = {{1 << 20, 64}, {1 << 20, 128}, {65536, 576},
                                                {65536, 2048}, {32768, 4096},  {32768, 5120},
                                                {16384, 8192}, {8192, 16384},  {4096, 4096}};
  for (const auto& [R, D] : shapes)
    for (DType dtype : {DType::kBF16, DType::kF32}) bench_rms_norm(ctx, report, R, D, dtype);
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    bench_rope(ctx, report, 65536, 32, 64, dtype);
    bench_rope(ctx, report, 32768, 32, 128, dtype);
    bench_rope(ctx, report, 65536, 8, 128, dtype);
  }
  for (int64_t V : {32000, 49152, 128256, 151936, 262144})
    bench_cross_entropy(ctx, report, 4096, V);
  bench_partials(ctx, report, 65536, 32, 64);
  bench_partials(ctx, report, 32768, 32, 128);
  bench_partials(ctx, report, 32768, 16, 256);
  bench_optimizer(ctx, report, 4, false);
  bench_optimizer(ctx, report, 4, true);
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    bench_elementwise(ctx, report, 16384, 8192, dtype);
    bench_elementwise(ctx, report, 4096, 4096, dtype);
    bench_split(ctx, report, 65536, 4096, 1024, dtype);
    bench_transpose(ctx, report, 65536, 32, 128, dtype);
    for (int64_t T : {8192, 65536}) bench_embedding(ctx, report, 128256, T, 2048, dtype);
  }
}

}  // namespace
}  // namespace longship

int main(int argc, char** argv) {
  CLI::App app("Speed of ops on a GPU that should be bound by its memory");
  return longship::run_gpu_program(app, argc, argv, longship::run);
}
