// Watches the messages between GPUs from a thread of its own, as the host does not wait for them:
// a deadline that passes or an error in the background becomes the CommFailure, and all streams
// that wait for peers are let go, so that the thread that computes comes back and throws it.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/cuda/comm_failure.h"
#include "runtime/gpu.h"

namespace longship {

class CommWatch {
 public:
  class Link {
   public:
    virtual ~Link() = default;
    // Throws what is wrong. `rescue` waits for nobody.
    virtual void inspect(const Stream& rescue) = 0;
    // Lets streams go that wait for peers; called again and again.
    virtual void release(const Stream& rescue) noexcept = 0;
  };

  CommWatch(std::shared_ptr<const Gpu> gpu, std::shared_ptr<CommFailure> failure);
  ~CommWatch();
  CommWatch(const CommWatch&) = delete;
  CommWatch& operator=(const CommWatch&) = delete;

  void add(Link* link);
  // Afterwards the link is no longer looked at.
  void remove(Link* link);

 private:
  void loop();
  void look();  // with mutex_ held

  const std::shared_ptr<const Gpu> gpu_;
  const std::shared_ptr<CommFailure> failure_;
  const Stream rescue_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::vector<Link*> links_;
  std::thread thread_;
};

}  // namespace longship
