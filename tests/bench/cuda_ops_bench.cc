// Speed of ops on a GPU that work row by row and should be bound by its memory: time, GB/s, and the
// share of what a plain copy of 2 GiB reaches, measured first. Bytes are what an op must read and
// write once. With --json, a JSON object a line. --gpu N chooses the GPU.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/cuda/device_info.h"
#include "runtime/gpu.h"
#include "runtime/ops/rms_norm.h"
#include "runtime/random.h"

namespace longship {
namespace {

// Milliseconds of the GPU for `timed`, the best of several; `prepare` runs before each and keeps
// the GPU busy while the host enqueues.
double best_ms(const Context& ctx, const std::function<void()>& prepare,
               const std::function<void()>& timed) {
  constexpr int kRepeats = 30;
  double best = std::numeric_limits<double>::infinity();
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    prepare();
    const Event start = ctx.gpu->compute->record_time();
    timed();
    const Event end = ctx.gpu->compute->record_time();
    end.synchronize();
    if (repeat > 2) best = std::min(best, end.milliseconds_since(start));
  }
  return best;
}

class Report {
 public:
  Report(double copy_gbps, bool json) : copy_gbps_(copy_gbps), json_(json) {
    if (!json_) std::printf("%-44s %9s %9s %7s\n", "case", "ms", "GB/s", "of copy");
  }

  void add(const std::string& name, double ms, int64_t bytes) const {
    const double gbps = static_cast<double>(bytes) / ms * 1e-6;
    const double floor_ms = static_cast<double>(bytes) / copy_gbps_ * 1e-6;
    if (json_) {
      const nlohmann::json line = {{"case", name},
                                   {"ms", ms},
                                   {"gb_per_s", gbps},
                                   {"floor_ms", floor_ms},
                                   {"share_of_copy", gbps / copy_gbps_}};
      std::printf("%s\n", line.dump().c_str());
    } else {
      std::printf("%-44s %9.4f %9.0f %6.1f%%\n", name.c_str(), ms, gbps, 100 * gbps / copy_gbps_);
    }
  }

 private:
  double copy_gbps_;
  bool json_;
};

// Standard normals: a GPU's clock depends on the data.
Tensor random(const Context& ctx, Shape shape, DType dtype) {
  constexpr int64_t kPeriod = 1 << 16;
  const auto host = std::make_shared<Memory>();
  const Tensor values = Tensor::empty(host, std::move(shape), DType::kF32);
  float* const data = values.data<float>();
  for (int64_t i = 0; i < values.numel(); ++i)
    data[i] = i < kPeriod ? static_cast<float>(normal(1, 1, static_cast<uint64_t>(i)))
                          : data[i - kPeriod];
  return values.to(dtype).to(ctx.memory);
}

double copy_gbps(const Context& ctx) {
  const Tensor from = ctx.zeros({int64_t{1} << 31}, DType::kU8),
               to = ctx.zeros(from.shape(), DType::kU8);
  const double ms = best_ms(
      ctx, [] {}, [&] { to.copy_from(from); });
  return 2e-6 * static_cast<double>(from.num_bytes()) / ms;
}

void bench_rms_norm(Context ctx, const Report& report, int64_t R, int64_t D, DType dtype) {
  Tape tape;
  const Tensor x_RD = random(ctx, {R, D}, dtype), weight_D = random(ctx, {D}, dtype);
  const Tensor dy_RD = random(ctx, {R, D}, dtype);
  const std::string shape = fmt::format("{} {}x{}", dtype_name(dtype), R, D);
  const int64_t size = x_RD.num_bytes();
  auto forward = [&] { return rms_norm(ctx, x_RD, weight_D, 1e-5); };
  report.add("rms_norm forward " + shape, best_ms(ctx, forward, forward), 2 * size);

  // x is the output of an op, so that its gradient stays in its dtype.
  ctx.tape = &tape;
  Variable y;
  auto record = [&] {
    tape.clear();
    const Variable x(x_RD, std::make_shared<Gradient>(x_RD.shape(), dtype));
    y = rms_norm(ctx, x, Variable::leaf(weight_D), 1e-5);
  };
  report.add("rms_norm backward " + shape,
             best_ms(ctx, record, [&] { tape.backward(ctx, y, dy_RD); }), 3 * size);
}

int run(int ordinal, bool json) {
  const CudaInfo info = cuda_info();
  if (ordinal < 0 || ordinal >= std::ssize(info.gpus)) {
    std::fprintf(stderr, "there is no GPU %d (%s)\n", ordinal,
                 info.built ? info.no_gpu_reason.c_str() : "this build has no CUDA code");
    return 2;
  }
  const Context ctx = gpu_context(ordinal);
  const double gbps = copy_gbps(ctx);
  if (!json)
    std::printf("%s, CUDA %s; a copy of 2 GiB reads and writes %.0f GB/s\n\n",
                info.gpus[static_cast<size_t>(ordinal)].name.c_str(), info.runtime_version.c_str(),
                gbps);
  const Report report(gbps, json);
  const std::pair<int64_t, int64_t> shapes[] = {{1 << 20, 64}, {1 << 20, 128}, {65536, 2048},
                                                {32768, 4096}, {32768, 5120},  {16384, 8192},
                                                {8192, 16384}, {4096, 4096}};
  for (const auto& [R, D] : shapes)
    for (DType dtype : {DType::kBF16, DType::kF32}) bench_rms_norm(ctx, report, R, D, dtype);
  return 0;
}

}  // namespace
}  // namespace longship

int main(int argc, char** argv) {
  int ordinal = 0;
  bool json = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json") {
      json = true;
    } else if (argument == "--gpu" && i + 1 < argc) {
      ordinal = std::atoi(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: cuda_ops_bench [--json] [--gpu N]\n");
      return 2;
    }
  }
  try {
    return longship::run(ordinal, json);
  } catch (const longship::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
