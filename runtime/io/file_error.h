// Turns an errno of the file system into Error(kStorage) that names the path and what to do.
#pragma once

#include <filesystem>
#include <string_view>

namespace longship {

// `action` completes "cannot ...": "read", "create", "rename to /x/y".
[[noreturn]] void throw_file_error(std::string_view action, const std::filesystem::path& path,
                                   int error_number);

}  // namespace longship
