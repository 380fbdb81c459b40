// The folder of a run: where its files lie, and the lock that keeps a second job out.
#pragma once

#include <string>

namespace longship {

struct RunFolder {
  std::string root;

  std::string resolved_config() const { return root + "/config.resolved.textproto"; }
  std::string metrics() const { return root + "/metrics.jsonl"; }
  std::string checkpoints() const { return root + "/checkpoints"; }
  std::string tensorboard() const { return root + "/tensorboard"; }
};

// Held by rank 0 while a job trains in a folder; the system releases it when the process ends,
// however it ends.
class RunLock {
 public:
  // Creates the folder if needed. Throws Error(kStorage) if that fails, Error(kConfig) naming host
  // and process if another job holds the lock.
  explicit RunLock(const RunFolder& folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace longship
