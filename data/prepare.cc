#include "data/prepare.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <optional>
#include <utility>

#include "data/input_files.h"
#include "data/record_reader.h"
#include "data/source_record.h"
#include "data/token_file_writer.h"
#include "runtime/error.h"
#include "runtime/io/file_error.h"
#include "runtime/parallel_for.h"
#include "runtime/seconds_since.h"

namespace longship {
namespace {

constexpr int64_t kWindowBytes = int64_t{32} << 20;  // of text in memory at once

[[noreturn]] void refuse(std::string what, std::string expected, std::string next = {}) {
  throw Error(ErrorCode::kConfig,
              {.what = std::move(what), .expected = std::move(expected), .next = std::move(next)});
}

void check_options(const PrepareOptions& options, const InputFiles& inputs) {
  LONGSHIP_CHECK(options.tokenizer != nullptr, "prepare() needs a tokenizer");
  if (options.num_threads < 1) refuse(fmt::format("{} threads", options.num_threads), "at least 1");
  if (options.text_field.empty() || options.text_field == options.prompt_field)
    refuse(
        fmt::format("text field `{}`, prompt field `{}`", options.text_field, options.prompt_field),
        "two different fields, the first with a name");
  try {
    if (std::filesystem::exists(options.out))
      for (const InputFile& file : inputs.files)
        if (std::filesystem::equivalent(file.path, options.out))
          refuse(fmt::format("{} is input and output", options.out), "a new file");
  } catch (const std::filesystem::filesystem_error& error) {
    throw_file_error("inspect", error.path1(), error.code().value());
  }
  check_new_file(options.out, options.overwrite);
}

// Calls f(i) for every index, on all threads; then throws what the first failing index threw, so
// that the error does not depend on the threads.
template <class F>
void for_each_in_order_of_errors(const Context& ctx, size_t count, F&& f) {
  std::vector<std::exception_ptr> errors(count);
  parallel_for_dynamic(ctx, static_cast<int64_t>(count), [&](int64_t index) {
    const auto i = static_cast<size_t>(index);
    try {
      f(i);
    } catch (...) {
      errors[i] = std::current_exception();
    }
  });
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

struct EncodedDocument {
  std::vector<int32_t> tokens;
  int64_t num_prompt_tokens = 0;  // <bos> included; 0 without a prompt
};

class Preparation {
 public:
  Preparation(const PrepareOptions& options, PrepareReport& report)
      : options_(options),
        report_(report),
        writer_(options.out, *options.tokenizer),
        record_options_{.split_on = options.split_on,
                        .text_field = options.text_field,
                        .prompt_field = options.prompt_field,
                        .allow_invalid_utf8 = options.allow_invalid_utf8} {
    ctx_.num_threads = options.num_threads;
  }

  void run(const std::vector<InputFile>& files) {
    RecordReader reader(files);
    std::vector<SourceRecord> window;
    int64_t window_bytes = 0;
    while (std::optional<SourceRecord> record = reader.next()) {
      window_bytes += static_cast<int64_t>(record->bytes.size());
      window.push_back(std::move(*record));
      if (window_bytes < kWindowBytes) continue;
      write_records(std::exchange(window, {}));
      window_bytes = 0;
    }
    write_records(std::move(window));
    if (lengths_.empty())
      throw Error(ErrorCode::kCorrupt,
                  {.what = "there is no document in the input",
                   .expected = "at least one document with text",
                   .found = fmt::format("files: {}; documents dropped: {} without text, {} shorter "
                                        "than {} tokens",
                                        files.size(), report_.num_empty_documents,
                                        report_.num_short_documents, options_.min_tokens)});
    writer_.finish();
    report_.lengths = LengthStatistics(std::move(lengths_));
  }

 private:
  void write_records(std::vector<SourceRecord> records) {
    std::vector<std::optional<ParsedRecord>> parsed(records.size());
    for_each_in_order_of_errors(ctx_, records.size(), [&](size_t i) {
      parsed[i].emplace(std::move(records[i]), record_options_);
    });
    std::vector<SourceDocument> documents;
    for (const std::optional<ParsedRecord>& record : parsed) {
      report_.num_replaced += record->num_replaced();
      for (const SourceDocument& document : record->documents()) {
        if (is_blank(document.text))
          ++report_.num_empty_documents;
        else
          documents.push_back(document);
      }
    }
    // One record may hold far more than a window.
    const std::span<const SourceDocument> all = documents;
    for (size_t begin = 0, end = 0; begin < all.size(); begin = end) {
      int64_t bytes = 0;
      while (end < all.size() && bytes < kWindowBytes)
        bytes += static_cast<int64_t>(all[end++].text.size());
      write_documents(all.subspan(begin, end - begin));
    }
  }

  void write_documents(std::span<const SourceDocument> documents) {
    std::vector<EncodedDocument> encoded(documents.size());
    for_each_in_order_of_errors(ctx_, documents.size(),
                                [&](size_t i) { encoded[i] = encode(documents[i]); });
    for (size_t i = 0; i < documents.size(); ++i) write(documents[i], encoded[i]);
  }

  EncodedDocument encode(const SourceDocument& document) const {
    const Tokenizer& tokenizer = *options_.tokenizer;
    EncodedDocument encoded;
    auto append = [&](std::string_view text) {
      const std::vector<int32_t> tokens = tokenizer.encode(text);
      encoded.tokens.insert(encoded.tokens.end(), tokens.begin(), tokens.end());
    };
    encoded.tokens.push_back(tokenizer.bos());
    if (!document.prompt.empty()) {
      append(document.prompt);
      encoded.num_prompt_tokens = std::ssize(encoded.tokens);
    }
    append(document.text);
    encoded.tokens.push_back(tokenizer.eos());
    return encoded;
  }

  void write(const SourceDocument& document, const EncodedDocument& encoded) {
    const int64_t length = std::ssize(encoded.tokens);
    if (length < options_.min_tokens) {
      ++report_.num_short_documents;
      return;
    }
    std::vector<uint8_t> loss_mask;
    if (encoded.num_prompt_tokens > 0) {
      loss_mask.assign(encoded.tokens.size(), 1);
      std::fill_n(loss_mask.begin(), encoded.num_prompt_tokens, uint8_t{0});
    }
    writer_.append(encoded.tokens, loss_mask);
    lengths_.push_back(length);
    report_.text_bytes += std::ssize(document.text) + std::ssize(document.prompt);
    // <bos> is never a target.
    report_.num_loss_tokens += length - std::max<int64_t>(encoded.num_prompt_tokens, 1);
  }

  const PrepareOptions& options_;
  PrepareReport& report_;
  TokenFileWriter writer_;
  RecordOptions record_options_;
  Context ctx_;
  std::vector<int64_t> lengths_;
};

}  // namespace

void check_new_file(const std::string& path, bool overwrite) {
  if (path.empty()) refuse("no output is named", "the path of the token file");
  try {
    if (!std::filesystem::exists(path)) return;
    if (std::filesystem::is_directory(path))
      refuse(fmt::format("{} is a folder", path), "the path of a file");
  } catch (const std::filesystem::filesystem_error& error) {
    throw_file_error("inspect", error.path1(), error.code().value());
  }
  if (!overwrite)
    refuse(fmt::format("{} exists", path), "a new file",
           "choose another name, or replace it with --overwrite");
}

PrepareReport prepare(const PrepareOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const InputFiles inputs = find_input_files(options.inputs);
  check_options(options, inputs);
  PrepareReport report;
  report.out = options.out;
  report.tokenizer = options.tokenizer->description();
  report.num_files = std::ssize(inputs.files);
  report.num_skipped_files = inputs.num_skipped;
  Preparation(options, report).run(inputs.files);
  report.seconds = seconds_since(start);
  return report;
}

}  // namespace longship
