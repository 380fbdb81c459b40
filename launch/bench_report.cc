#include "launch/bench_report.h"

#include "runtime/cuda/device_info.h"
#include "runtime/gpu.h"
#include "runtime/io/atomic_file.h"

namespace longship {
namespace {

nlohmann::ordered_json versions(const Context& ctx) {
  nlohmann::ordered_json all{{"longship", LONGSHIP_VERSION}, {"compiler", __VERSION__}};
  if (ctx.gpu == nullptr) return all;
  const CudaInfo info = cuda_info();
  all["gpu"] = gpu_name(ctx.gpu->device.index);
  all["cuda"] = info.runtime_version;
  all["driver"] = info.driver_version;
  all["cudnn"] = info.cudnn_version;
  all["nccl"] = info.nccl_version;
  return all;
}

}  // namespace

BenchReport::BenchReport(const Job& job, std::string json_path, std::string command)
    : job_(job),
      peaks_(device_peaks(job.ctx)),
      versions_(versions(job.ctx)),
      json_path_(std::move(json_path)),
      command_(std::move(command)) {
  if (job.world.size() > 1) command_ = fmt::format("mpirun -n {} {}", job.world.size(), command_);
}

void BenchReport::add(const BenchCase& result) {
  if (!job_.is_first_rank()) return;
  std::string line = fmt::format("{:<58} {:>10.3f} ms  {:>8.4g} {}", result.name, result.ms,
                                 result.rate, result.unit);
  nlohmann::ordered_json object{
      {"case", result.name}, {"ms", result.ms}, {"rate", result.rate}, {"unit", result.unit}};
  if (result.floor_ms > 0) {
    const double share = result.floor_ms / result.ms;
    line += fmt::format("  floor {:.3f} ms, {:.1f}%", result.floor_ms, 100 * share);
    object["floor_ms"] = result.floor_ms;
    object["share_of_floor"] = share;
  }
  if (!result.note.empty()) line += "  " + result.note;
  object.update(result.details);
  object["command"] = command_;
  object["versions"] = versions_;
  lines_ += object.dump() + "\n";
  job_.say(line);
}

void BenchReport::finish() const {
  if (job_.is_first_rank() && !json_path_.empty()) write_file_atomically(json_path_, lines_);
}

std::string device_count_name(const Job& job) {
  return fmt::format("{}{}", job.world.size(), job.ctx.gpu == nullptr ? "cpu" : "gpu");
}

double floor_ms(double amount, double peak) {
  return peak > 0 ? 1e3 * amount / peak : 0;
}

std::string length_name(int64_t length) {
  if (length > 0 && length % (int64_t{1} << 20) == 0) return fmt::format("{}M", length >> 20);
  if (length > 0 && length % 1024 == 0) return fmt::format("{}K", length >> 10);
  return fmt::format("{}", length);
}

}  // namespace longship
