// SIGTERM, SIGUSR1 and the first SIGINT ask the training loop to save and stop; a second SIGINT
// ends the process at once.
#pragma once

namespace longship {

class StopSignal {
 public:
  // Installs the handlers; the destructor restores the default actions. At most one at a time.
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Whether a signal has arrived in this rank. Ranks must agree before acting on it.
  bool requested() const;
};

}  // namespace longship
