#include "runtime/error.h"

namespace longship {
namespace {

std::string render(const ErrorReport& report) {
  std::string text = report.what;
  auto line = [&](std::string_view label, const std::string& value) {
    if (!value.empty()) text += fmt::format("\n  {:<9} {}", label, value);
  };
  line("expected:", report.expected);
  line("found:", report.found);
  line("next:", report.next);
  return text;
}

}  // namespace

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kConfig:
      return "configuration error";
    case ErrorCode::kCorrupt:
      return "corrupt data";
    case ErrorCode::kOutOfMemory:
      return "out of memory";
    case ErrorCode::kTimeout:
      return "communication time-out";
    case ErrorCode::kNonFinite:
      return "non-finite value";
    case ErrorCode::kStorage:
      return "storage error";
    case ErrorCode::kInternal:
      return "internal error";
    case ErrorCode::kPreempted:
      return "preempted";
  }
  return "error";
}

Error::Error(ErrorCode code, ErrorReport report)
    : std::runtime_error(render(report)), code_(code), report_(std::move(report)) {}

void throw_internal(const char* condition, const char* file, int line, std::string message) {
  throw Error(ErrorCode::kInternal,
              {.what = fmt::format("{}:{}: check `{}` failed", file, line, condition),
               .found = std::move(message),
               .next = "this is a bug in Longship; please report it with the command and config"});
}

}  // namespace longship
