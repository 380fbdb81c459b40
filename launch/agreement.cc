#include "launch/agreement.h"

#include <vector>

#include "runtime/error.h"

namespace longship {
namespace {

// code, what, expected, found, next; separated by a byte that messages do not hold.
constexpr char kSeparator = '\x1f';

std::string encode(const Error& error) {
  const ErrorReport& report = error.report();
  std::string text = std::to_string(static_cast<int>(error.code()));
  for (const std::string& part : {report.what, report.expected, report.found, report.next})
    text += kSeparator + part;
  return text;
}

Error decode(const std::string& text, int rank, int num_ranks) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == kSeparator) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  LONGSHIP_CHECK(parts.size() == 5, "error record with {} parts", parts.size());
  if (num_ranks > 1) parts[1] = fmt::format("rank {}: {}", rank, parts[1]);
  return Error(static_cast<ErrorCode>(std::stoi(parts[0])),
               {.what = parts[1], .expected = parts[2], .found = parts[3], .next = parts[4]});
}

}  // namespace

void run_together(const Group& world, const std::string& label,
                  const std::function<void()>& action) {
  std::string failure;
  try {
    action();
  } catch (const Error& error) {
    failure = encode(error);
  }
  const std::vector<std::string> failures = world.all_gather_bytes(label, failure);
  for (size_t rank = 0; rank < failures.size(); ++rank)
    if (!failures[rank].empty()) throw decode(failures[rank], static_cast<int>(rank), world.size());
}

}  // namespace longship
