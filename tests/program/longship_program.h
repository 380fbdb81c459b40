// Runs the built `longship` as its users do, with and without mpirun.
#pragma once

#include <string>
#include <vector>

#include "tests/support/run_program.h"
#include "tests/support/temporary_folder.h"

namespace longship::testing {

// run_program() of the built program; `ranks` 0 runs it without mpirun.
ProgramResult run_longship(int ranks, const std::string& arguments);

// A folder with prepared tokens and a tiny model's configuration; the data are made up,
// English-like and the same every time.
class TinyRun {
 public:
  // `model` is the text of the configuration's model block; a dense one unless given.
  explicit TinyRun(const std::string& model = kDenseModel);

  // Trains with these overrides ("train.steps=20 parallel.strategy=ring ...") into folder `name`.
  ProgramResult train(int ranks, const std::string& name,
                      const std::vector<std::string>& overrides);
  std::string folder(const std::string& name) const { return files_.path(name); }
  std::string config() const { return files_.path("run.textproto"); }
  std::string tokens() const { return files_.path("text.tokens"); }
  const TemporaryFolder& files() const { return files_; }

  // The column `key` of metrics.jsonl, as the text of its JSON value.
  std::vector<std::string> metric(const std::string& name, const std::string& key) const;
  std::vector<double> losses(const std::string& name) const;
  // Checksums of every tensor of the newest checkpoint: equal exactly when all weights and moments
  // are.
  std::string weights_fingerprint(const std::string& name) const;

 private:
  static constexpr const char* kDenseModel =
      "hidden_size: 32 intermediate_size: 48 num_layers: 2 "
      "attention { num_heads: 4 num_kv_heads: 2 }";

  TemporaryFolder files_;
};

}  // namespace longship::testing
