// The one exception type of Longship, its codes (which are also the exit codes), and checks.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace longship {

// Process exit codes; `longship` returns the code of the error that ended it.
enum class ErrorCode : int {
  kConfig = 2,       // a configuration, flag or argument that cannot be run
  kCorrupt = 3,      // data on disk that is damaged, truncated or malformed
  kOutOfMemory = 4,  // host or device memory
  kTimeout = 5,      // a communication deadline passed
  kNonFinite = 6,    // NaN or infinity in loss or gradients, or divergence
  kStorage = 7,      // the file system refused: permissions, space, missing file
  kInternal = 70,    // a bug in Longship
  kPreempted = 75,   // asked to stop, and the state was saved
};

// "config", "corrupt data", ... as printed before the message.
std::string_view error_code_name(ErrorCode code);

// What a reader needs to act: the place and fact, what was expected, what was found, what to do.
// Empty parts are left out of the message.
struct ErrorReport {
  std::string what;
  std::string expected = {};
  std::string found = {};
  std::string next = {};
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, ErrorReport report);

  ErrorCode code() const { return code_; }
  const ErrorReport& report() const { return report_; }

 private:
  ErrorCode code_;
  ErrorReport report_;
};

[[noreturn]] void throw_internal(const char* condition, const char* file, int line,
                                 std::string message);

// An invariant of Longship itself (not of its input): throws Error(kInternal).
#define LONGSHIP_CHECK(condition, ...)                                                        \
  do {                                                                                        \
    if (!(condition)) [[unlikely]]                                                            \
      ::longship::throw_internal(#condition, __FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
  } while (false)

}  // namespace longship
