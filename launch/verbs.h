// The verbs of the `longship` program: one function and one source file each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace longship {

// train: config file, resume, step loop. Returns 0, or 75 when a signal stopped it after saving.
struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;  // "section.field=value"
};
int run_train(const TrainArguments& arguments);

// prepare: text, JSONL or folders into a token file.
struct PrepareArguments {
  std::vector<std::string> inputs;
  std::string output;
  std::string tokenizer = "byte";       // or the path of a SentencePiece model
  std::string split_on;                 // .txt: cut documents at this text too
  std::string text_field = "text";      // of JSONL
  std::string prompt_field = "prompt";  // of JSONL: tokens without loss
  int64_t min_tokens = 0;               // shorter documents are dropped
  bool allow_invalid_utf8 = false;
  bool overwrite = false;
  int num_threads = 0;  // 0: all cores

  // Documents of recall tasks instead of text (launch/recall_tasks.h), or of "random" tokens:
  // these, in turn.
  std::vector<std::string> synthetic;
  int64_t num_documents = 10000;
  std::vector<int64_t> lengths = {256};  // tokens of a document, one of these
  std::vector<int64_t> pairs = {8};      // of "associative", one of these
  uint64_t seed = 1;                     // eval --recall begins at 0
};
int run_prepare(const PrepareArguments& arguments);
// With `synthetic`.
int run_prepare_synthetic(const PrepareArguments& arguments);

// eval: loss and perplexity, by position, of a checkpoint on a token file.
struct EvalArguments {
  std::string checkpoint;  // a run folder or a checkpoint folder
  std::string tokens;
  std::vector<std::string> overrides;  // applied to the checkpoint's own configuration
  int64_t context = 0;                 // longest piece of a document; 0: as trained
  int64_t max_samples = 0;             // 0: all
  std::string json;                    // also write the result here

  // Recall tasks (launch/recall_tasks.h) instead of a token file.
  bool recall = false;
  std::string tokenizer = "byte";  // that the checkpoint was trained with
  std::vector<std::string> tasks = {"passkey", "associative"};
  std::vector<int64_t> lengths;  // of documents in tokens; none: the context trained at
  std::vector<int64_t> depths = {0, 25, 50, 75, 100};  // of the pass key, in percent
  std::vector<int64_t> pairs = {8};                    // of keys and values
  int64_t num_samples = 16;                            // of each length with each depth or pairs
  uint64_t seed = 0;
};
int run_eval(const EvalArguments& arguments);
// With `recall`.
int run_eval_recall(const EvalArguments& arguments);

// generate: continues a prompt.
struct GenerateArguments {
  std::string checkpoint;
  std::vector<std::string> overrides;
  std::string prompt;
  std::string prompt_file;
  std::string tokenizer;  // empty: byte-level
  int64_t max_tokens = 200;
  double temperature = 0;  // 0: greedy
  int64_t top_k = 0;       // 0: off
  double top_p = 1.0;
  uint64_t seed = 0;
};
int run_generate(const GenerateArguments& arguments);

// inspect: what is in a configuration, a token file or a checkpoint.
struct InspectArguments {
  std::string path;
  std::vector<std::string> overrides;  // for a configuration
  int num_ranks = 1;                   // for a configuration
  bool verify = false;                 // read everything and check it
  bool strategies = false;             // list the strategies instead
  bool devices = false;                // list the GPUs of this machine instead
};
int run_inspect(const InspectArguments& arguments);

// bench: how fast attention, collectives and whole steps are, against what the hardware allows.
struct BenchArguments {
  std::vector<std::string> kinds;  // of "attention", "collectives", "step"
  std::string device = "auto";     // "cpu", "cuda", or "auto": a GPU if every rank has one
  bool deterministic = false;      // kernels that repeat their bits, on GPUs too
  int num_rounds = 5;              // a case's time is their median
  std::string json;                // also write the cases here, one object a line
  std::string command_line;        // written with them

  // attention
  std::vector<int64_t> lengths = {16384, 65536};  // tokens of the whole sequence
  std::string heads = "32/8x128";                 // query heads / key-value heads x head size
  std::vector<std::string> strategies;  // none: local on one rank, else ulysses, ring, gather_kv
  int64_t mean_document = 0;            // random documents of this mean length; 0: one document
  int64_t window = 0;
  // collectives
  std::vector<int64_t> message_bytes = {4096, 65536, 1 << 20, 16 << 20, 256 << 20};
  // step
  std::string config;
  std::vector<std::string> overrides;
};
int run_bench(const BenchArguments& arguments);

}  // namespace longship
