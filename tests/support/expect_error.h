// Asserts that something throws longship::Error with a code and a message that names what matters.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "runtime/error.h"

namespace longship::testing {

template <class F>
void expect_error(ErrorCode code, std::initializer_list<std::string> parts, F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    for (const std::string& part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << "message does not name `" << part << "`:\n"
          << error.what();
    return;
  }
  ADD_FAILURE() << "no error was thrown, expected " << error_code_name(code);
}

}  // namespace longship::testing
