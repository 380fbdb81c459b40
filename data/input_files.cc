#include "data/input_files.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <filesystem>
#include <optional>

#include "runtime/error.h"
#include "runtime/io/file_error.h"

namespace longship {
namespace {

namespace fs = std::filesystem;

std::optional<TextFormat> format_of(const fs::path& path) {
  std::string extension = path.extension().string();
  for (char& letter : extension)
    letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  if (extension == ".txt") return TextFormat::kPlain;
  if (extension == ".jsonl") return TextFormat::kJsonLines;
  return std::nullopt;
}

void add_folder(const fs::path& folder, InputFiles& found) {
  std::vector<InputFile> files;
  fs::recursive_directory_iterator entry(folder, fs::directory_options::follow_directory_symlink);
  for (; entry != fs::recursive_directory_iterator(); ++entry) {
    if (entry->path().filename().string().starts_with('.')) {
      if (entry->is_directory()) entry.disable_recursion_pending();
      continue;
    }
    if (entry->is_directory()) continue;
    if (const auto format = format_of(entry->path()))
      files.push_back({entry->path().string(), *format});
    else
      ++found.num_skipped;
  }
  if (files.empty())
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("no text in folder {}", folder.string()),
                 .expected = "files that end in .txt or .jsonl",
                 .found = fmt::format("{} other files", found.num_skipped),
                 .next = "name the folder that holds the text, or rename the files"});
  std::sort(files.begin(), files.end(),
            [](const InputFile& a, const InputFile& b) { return a.path < b.path; });
  found.files.insert(found.files.end(), files.begin(), files.end());
}

void add_input(const fs::path& input, InputFiles& found) {
  if (fs::is_directory(input)) {
    add_folder(input, found);
    return;
  }
  if (!fs::exists(input)) throw_file_error("read", input, ENOENT);
  const auto format = format_of(input);
  if (!format)
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("{} is of an unknown kind", input.string()),
                 .expected = "a .txt file, a .jsonl file or a folder of them",
                 .found = input.extension().empty() ? "no extension" : input.extension().string(),
                 .next = "convert the file to text or JSON lines, or rename it"});
  found.files.push_back({input.string(), *format});
}

}  // namespace

InputFiles find_input_files(const std::vector<std::string>& inputs) {
  if (inputs.empty())
    throw Error(ErrorCode::kConfig, {.what = "no input is named",
                                     .expected = "at least one .txt file, .jsonl file or folder"});
  InputFiles found;
  for (const std::string& input : inputs) {
    try {
      add_input(input, found);
    } catch (const fs::filesystem_error& error) {
      throw_file_error("read", error.path1().empty() ? fs::path(input) : error.path1(),
                       error.code().value());
    }
  }
  return found;
}

}  // namespace longship
