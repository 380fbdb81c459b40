// A tiny SentencePiece model, trained in memory.
#pragma once

#include <sentencepiece_trainer.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace longship::testing {

// The serialized model; `options` as for spm_train, such as "--vocab_size=60 --model_type=bpe".
inline std::string train_sentencepiece(const std::string& options) {
  struct Lines final : sentencepiece::SentenceIterator {
    std::vector<std::string> lines;
    size_t at = 0;
    bool done() const override { return at == lines.size(); }
    void Next() override { ++at; }
    const std::string& value() const override { return lines[at]; }
    sentencepiece::util::Status status() const override { return {}; }
  };
  Lines corpus;
  for (int i = 0; i < 300; ++i)
    corpus.lines.push_back("the quick brown fox " + std::to_string(i * 7919) +
                           " jumps over the lazy dog");
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      options + " --num_threads=1 --minloglevel=2", &corpus, &model);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  return model;
}

}  // namespace longship::testing
