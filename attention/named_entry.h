// Finding an entry of a table by its name, with an error that lists the names there are.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/error.h"

namespace longship {

// Null when no entry has that name.
template <class Entry>
const Entry* find_entry(std::span<const Entry> table, std::string_view name) {
  const auto entry =
      std::find_if(table.begin(), table.end(), [&](const Entry& e) { return e.name == name; });
  return entry == table.end() ? nullptr : &*entry;
}

// "one of: a, b, c"
template <class Entry>
std::string known_names(std::span<const Entry> table) {
  std::vector<std::string_view> names;
  for (const Entry& entry : table) names.push_back(entry.name);
  return fmt::format("one of: {}", fmt::join(names, ", "));
}

// Throws Error(kConfig): "unknown <kind>".
template <class Entry>
const Entry& find_entry_or_throw(std::span<const Entry> table, std::string_view name,
                                 std::string_view kind) {
  if (const Entry* entry = find_entry(table, name)) return *entry;
  throw Error(ErrorCode::kConfig, {.what = fmt::format("unknown {}", kind),
                                   .expected = known_names(table),
                                   .found = fmt::format("`{}`", name)});
}

}  // namespace longship
