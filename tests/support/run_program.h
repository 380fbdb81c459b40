// Starts a program as a user would, alone or under mpirun, and watches how it ends.
#pragma once

#include <string>

namespace longship::testing {

struct ProgramResult {
  int exit_code = -1;  // 128 + signal for a program that a signal ended
  std::string output;  // stdout and stderr
  double seconds = 0;
};

// Runs `command`, a line for the shell, on this many ranks; 0 runs it without mpirun. One thread
// per rank. Fails the current test when it takes longer than `timeout_s`, and then ends it.
ProgramResult run_program(int ranks, const std::string& command, int timeout_s = 120);

}  // namespace longship::testing
