// longship prepare --synthetic: documents of recall tasks as a token file, to train models that
// `longship eval --recall` can tell apart, where only the answers count in the loss; or random
// tokens, which all count, to time training with.
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

constexpr std::string_view kRandom = "random";

// Document i has a task of its own, and a length, depth and number of pairs drawn from those asked
// for.
class SyntheticMixture {
 public:
  SyntheticMixture(const PrepareArguments& arguments, const Tokenizer& tokenizer)
      : arguments_(arguments), tokenizer_(tokenizer), passkey_(tokenizer), associative_(tokenizer) {
    for (const std::string& task : arguments.synthetic)
      if (task != PasskeyTask::kName && task != AssociativeTask::kName && task != kRandom)
        throw Error(ErrorCode::kConfig, {.what = fmt::format("--synthetic {}", task),
                                         .expected = fmt::format("{}, {} or {}", PasskeyTask::kName,
                                                                 AssociativeTask::kName, kRandom)});
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
    if (task == kRandom) return random(length, i);
    if (task == PasskeyTask::kName)
      return passkey_.sample(length, draw("depth", i, 101), arguments_.seed, i);
    return associative_.sample(length, one_of(arguments_.pairs, "pairs", i), arguments_.seed, i);
  }

 private:
  // All tokens but <bos> as one answer.
  RecallSample random(int64_t length, int64_t i) const {
    if (length < 2)
      throw Error(ErrorCode::kConfig, {.what = fmt::format("--lengths {}", length),
                                       .expected = "at least 2 for random documents"});
    RecallSample sample{.tokens = {tokenizer_.bos()},
                        .answers = {{.begin = 1, .length = length - 1}}};
    const auto size = static_cast<uint64_t>(tokenizer_.vocab_size());
    const uint64_t document = static_cast<uint64_t>(i) << 32;
    for (int64_t t = 1; t < length; ++t)
      sample.tokens.push_back(static_cast<int32_t>(uniform_index(
          arguments_.seed, stream_of(kRandom), document + static_cast<uint64_t>(t), size)));
    return sample;
  }
  int64_t draw(std::string_view what, int64_t i, int64_t bound) const {
    return static_cast<int64_t>(uniform_index(
        arguments_.seed, stream_of(what), static_cast<uint64_t>(i), static_cast<uint64_t>(bound)));
  }
  int64_t one_of(const std::vector<int64_t>& values, std::string_view what, int64_t i) const {
    return values[static_cast<size_t>(draw(what, i, std::ssize(values)))];
  }

  const PrepareArguments& arguments_;
  const Tokenizer& tokenizer_;
  PasskeyTask passkey_;
  AssociativeTask associative_;
};

}  // namespace

int run_prepare_synthetic(const PrepareArguments& arguments) {
  check_new_file(arguments.output, arguments.overwrite);
  const std::shared_ptr<const Tokenizer> tokenizer = make_tokenizer(arguments.tokenizer);
  const SyntheticMixture mixture(arguments, *tokenizer);
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
