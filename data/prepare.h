// prepare(): text files to one token file. Each document is <bos> tokens <eos>.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/length_statistics.h"
#include "data/tokenizer.h"

namespace longship {

struct PrepareOptions {
  // .txt (a document each), .jsonl (a document per line), or folders, which are searched for both
  // in the order of their paths; other files in a folder are left out and counted.
  std::vector<std::string> inputs;
  std::string out;  // the token file
  std::shared_ptr<const Tokenizer> tokenizer;
  int num_threads = 1;   // the output does not depend on it
  std::string split_on;  // .txt: also cut documents at each occurrence; empty: do not
  std::string text_field = "text";
  // Tokens of this optional field come first and do not count in the loss; empty: there is none.
  std::string prompt_field = "prompt";
  int64_t min_tokens = 0;           // shorter documents (<bos>, <eos> included) are dropped
  bool allow_invalid_utf8 = false;  // replace each bad byte sequence by U+FFFD instead of refusing
  bool overwrite = false;           // replace an existing `out`
};

struct PrepareReport {
  std::string out;
  std::string tokenizer;  // description
  int64_t num_files = 0;
  int64_t num_skipped_files = 0;    // in folders, with other extensions
  int64_t text_bytes = 0;           // of the documents kept, as tokenized
  int64_t num_empty_documents = 0;  // dropped: nothing but white space
  int64_t num_short_documents = 0;  // dropped: fewer than min_tokens
  int64_t num_replaced = 0;         // bad byte sequences replaced
  int64_t num_loss_tokens = 0;      // tokens that count as targets
  LengthStatistics lengths;         // of the documents kept; holds their number and tokens
  double seconds = 0;

  std::string text() const;  // several lines for a terminal
};

// Reads every input once, in order, in bounded windows. `out` appears by rename when it is whole;
// after an error nothing is left of it. Throws Error(kStorage) for files that cannot be read or
// written, Error(kCorrupt) with file and line (and byte) for text that is not UTF-8 or not the
// JSON expected or when there is no document at all, Error(kConfig) for options that cannot be.
PrepareReport prepare(const PrepareOptions& options);

// Throws Error(kConfig) when `path` is empty or a folder, or exists and may not be replaced.
void check_new_file(const std::string& path, bool overwrite);

}  // namespace longship
