// What is wrong with options: all of it, so that it can be told at once.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

namespace longship {

class Problems {
 public:
  // Adds a line, formatted of `args`, unless it `holds`.
  template <class... Args>
  void require(bool holds, fmt::format_string<Args...> format, Args&&... args) {
    if (!holds) found_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  void add(const std::vector<std::string>& lines) {
    found_.insert(found_.end(), lines.begin(), lines.end());
  }
  // One line each; empty when all is well.
  std::vector<std::string> take() { return std::move(found_); }

 private:
  std::vector<std::string> found_;
};

}  // namespace longship
