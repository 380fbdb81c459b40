// longship prepare --synthetic: documents of recall tasks as a token file, to train models that
// `longship eval --recall` can tell apart. Only the answers count in the loss.
#include <algorithm>
#include <cstdio>

#include "data/prepare.h"
#include "data/token_file_writer.h"
#include "launch/recall_tasks.h"
#include "launch/verbs.h"
#include "runtime/error.h"
#include "runtime/random.h"

namespace longship {
namespace {

// Document i has a task of its own, and a length, depth and number of pairs drawn from those asked
// for.
class RecallMixture {
 public:
  RecallMixture(const PrepareArguments& arguments, const Tokenizer& tokenizer)
      : arguments_(arguments), passkey_(tokenizer), associative_(tokenizer) {
    for (const std::string& task : arguments.synthetic)
      if (task != PasskeyTask::kName && task != AssociativeTask::kName)
        throw Error(ErrorCode::kConfig, {.what = fmt::format("--synthetic {}", task),
                                         .expected = fmt::format("{} or {}", PasskeyTask::kName,
                                                                 AssociativeTask::kName)});
    for (const auto& [name, count] :
         {std::pair{"--documents", arguments.num_documents},
          {"number of --lengths", static_cast<int64_t>(arguments.lengths.size())},
          {"number of --pairs", static_cast<int64_t>(arguments.pairs.size())}})
      if (count < 1)
        throw Error(ErrorCode::kConfig,
                    {.what = fmt::format("{} {}", name, count), .expected = "at least 1"});
  }

  RecallSample document(int64_t i) const {
    const auto& tasks = arguments_.synthetic;
    const std::string& task = tasks[static_cast<size_t>(i) % tasks.size()];
    const int64_t length = one_of(arguments_.lengths, "length", i);
    if (task == PasskeyTask::kName)
      return passkey_.sample(length, draw("depth", i, 101), arguments_.seed, i);
    return associative_.sample(length, one_of(arguments_.pairs, "pairs", i), arguments_.seed, i);
  }

 private:
  int64_t draw(std::string_view what, int64_t i, int64_t bound) const {
    return static_cast<int64_t>(uniform_index(
        arguments_.seed, stream_of(what), static_cast<uint64_t>(i), static_cast<uint64_t>(bound)));
  }
  int64_t one_of(const std::vector<int64_t>& values, std::string_view what, int64_t i) const {
    return values[static_cast<size_t>(draw(what, i, std::ssize(values)))];
  }

  const PrepareArguments& arguments_;
  PasskeyTask passkey_;
  AssociativeTask associative_;
};

}  // namespace

int run_prepare_recall(const PrepareArguments& arguments) {
  check_new_file(arguments.output, arguments.overwrite);
  const std::shared_ptr<const Tokenizer> tokenizer = make_tokenizer(arguments.tokenizer);
  const RecallMixture mixture(arguments, *tokenizer);
  TokenFileWriter writer(arguments.output, *tokenizer);
  int64_t num_tokens = 0, num_answer_tokens = 0;
  std::vector<uint8_t> loss_mask;
  for (int64_t i = 0; i < arguments.num_documents; ++i) {
    const RecallSample sample = mixture.document(i);
    loss_mask.assign(sample.tokens.size(), 0);
    for (const RecallAnswer& answer : sample.answers) {
      std::fill_n(loss_mask.begin() + answer.begin, answer.length, uint8_t{1});
      num_answer_tokens += answer.length;
    }
    writer.append(sample.tokens, loss_mask);
    num_tokens += std::ssize(sample.tokens);
  }
  writer.finish();
  std::printf("wrote %s: %lld documents, %lld tokens, %lld of them answers\n",
              arguments.output.c_str(), static_cast<long long>(arguments.num_documents),
              static_cast<long long>(num_tokens), static_cast<long long>(num_answer_tokens));
  return 0;
}

}  // namespace longship
