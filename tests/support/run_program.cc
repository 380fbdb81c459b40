#include "tests/support/run_program.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <chrono>
#include <cstdio>

#include "runtime/seconds_since.h"

namespace longship::testing {

ProgramResult run_program(int ranks, const std::string& command, int timeout_s) {
  std::string line = "OMP_NUM_THREADS=1 timeout --kill-after=10 " + std::to_string(timeout_s) + " ";
  if (ranks > 0)
    line += std::string(LONGSHIP_MPIEXEC) +
            " --allow-run-as-root --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n " +
            std::to_string(ranks) + " ";
  line += command + " 2>&1 </dev/null";
  ProgramResult result;
  const auto begin = std::chrono::steady_clock::now();
  std::FILE* pipe = popen(line.c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  for (size_t count; (count = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    result.output.append(buffer.data(), count);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.seconds = seconds_since(begin);
  EXPECT_LT(result.seconds, timeout_s) << line << "\n" << result.output;
  return result;
}

}  // namespace longship::testing
