// BatchLoader: the batches of one data-parallel rank in order, built ahead by a thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "data/batch.h"

namespace longship {

// Batch b = 0, 1, ... is the samples
//   first_sample + (b * num_dp_ranks + dp_rank) * samples_per_batch + [0, samples_per_batch),
// so an optimizer step of n batches per rank uses the next n * num_dp_ranks * samples_per_batch
// samples, whatever the number of ranks.
struct BatchSchedule {
  int64_t first_sample = 0;
  int64_t samples_per_batch = 1;
  int num_dp_ranks = 1;
  int dp_rank = 0;
};

class BatchLoader {
 public:
  // depth: batches built ahead; 0 builds in next(). The batches do not depend on it.
  // Throws Error(kConfig) when a number of the schedule is out of range.
  BatchLoader(std::shared_ptr<const BatchBuilder> builder, const BatchSchedule& schedule,
              int depth);
  ~BatchLoader();  // stops the thread; batches not taken are dropped
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  // The next batch. An error met while building it is thrown here, at its turn and ever after.
  Batch next();

  // Seconds the caller has stood in next() so far.
  double wait_s() const { return wait_s_; }

 private:
  Batch build(int64_t batch) const;
  void prefetch();

  std::shared_ptr<const BatchBuilder> builder_;
  BatchSchedule schedule_;
  size_t depth_;
  int64_t num_taken_ = 0;
  double wait_s_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr error_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace longship
