// The text files that a list of paths stands for, in an order that does not depend on the file
// system.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longship {

enum class TextFormat {
  kPlain,      // .txt
  kJsonLines,  // .jsonl
};

struct InputFile {
  std::string path;
  TextFormat format = TextFormat::kPlain;
};

struct InputFiles {
  std::vector<InputFile> files;  // in the order of `inputs`; those of a folder by their paths
  int64_t num_skipped = 0;       // in folders: other extensions
};

// Folders are searched with all folders below them, symbolic links too; names that begin with a dot
// are passed over. Throws Error(kStorage) for what is missing or unreadable, Error(kConfig) for an
// empty list, a file of another extension, or a folder without any text file.
InputFiles find_input_files(const std::vector<std::string>& inputs);

}  // namespace longship
