#include "launch/stop_signal.h"

#include <csignal>
#include <initializer_list>

namespace longship {
namespace {

// A signal handler can reach nothing but static storage.
volatile std::sig_atomic_t stop_requested = 0;

void request_stop(int signal) {
  stop_requested = 1;
  if (signal == SIGINT) std::signal(SIGINT, SIG_DFL);
}

}  // namespace

StopSignal::StopSignal() {
  stop_requested = 0;
  for (int signal : {SIGTERM, SIGUSR1, SIGINT}) std::signal(signal, request_stop);
}

StopSignal::~StopSignal() {
  for (int signal : {SIGTERM, SIGUSR1, SIGINT}) std::signal(signal, SIG_DFL);
}

bool StopSignal::requested() const {
  return stop_requested != 0;
}

}  // namespace longship
