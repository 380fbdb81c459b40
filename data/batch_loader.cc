#include "data/batch_loader.h"

#include <chrono>
#include <string_view>
#include <utility>

#include "runtime/error.h"
#include "runtime/seconds_since.h"

namespace longship {

BatchLoader::BatchLoader(std::shared_ptr<const BatchBuilder> builder, const BatchSchedule& schedule,
                         int depth)
    : builder_(std::move(builder)), schedule_(schedule), depth_(static_cast<size_t>(depth)) {
  auto require = [](bool good, std::string_view what, int64_t found) {
    if (!good)
      throw Error(ErrorCode::kConfig, {.what = fmt::format("{} of the batch schedule", what),
                                       .found = std::to_string(found)});
  };
  require(schedule.first_sample >= 0, "first sample", schedule.first_sample);
  require(schedule.samples_per_batch > 0, "samples per batch", schedule.samples_per_batch);
  require(schedule.num_dp_ranks > 0, "number of data-parallel ranks", schedule.num_dp_ranks);
  require(schedule.dp_rank >= 0 && schedule.dp_rank < schedule.num_dp_ranks, "data-parallel rank",
          schedule.dp_rank);
  require(depth >= 0, "prefetch depth", depth);
  if (depth > 0) thread_ = std::thread([this] { prefetch(); });
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Batch BatchLoader::build(int64_t batch) const {
  const int64_t index = batch * schedule_.num_dp_ranks + schedule_.dp_rank;
  return builder_->build(schedule_.first_sample + index * schedule_.samples_per_batch,
                         schedule_.samples_per_batch);
}

void BatchLoader::prefetch() {
  try {
    for (int64_t batch = 0;; ++batch) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopping_ || ready_.size() < depth_; });
        if (stopping_) return;
      }
      Batch next = build(batch);
      const std::lock_guard lock(mutex_);
      ready_.push_back(std::move(next));
      changed_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
    changed_.notify_all();
  }
}

Batch BatchLoader::next() {
  const auto start = std::chrono::steady_clock::now();
  Batch batch;
  if (depth_ == 0) {
    batch = build(num_taken_);
  } else {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || error_; });
    if (ready_.empty()) std::rethrow_exception(error_);
    batch = std::move(ready_.front());
    ready_.pop_front();
    changed_.notify_all();
  }
  ++num_taken_;
  wait_s_ += seconds_since(start);
  return batch;
}

}  // namespace longship
