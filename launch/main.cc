// The longship program: reads the command line and calls a verb.
#include <CLI/CLI.hpp>

#include "launch/guarded_main.h"
#include "launch/verbs.h"
#include "runtime/error.h"

namespace {

using longship::ErrorCode;

constexpr const char* kAbout =
    "Longship trains language models on sequences too long for one device.\n"
    "\n"
    "  longship prepare --input books/ --output books.tokens\n"
    "  mpirun -n 2 longship train run.textproto\n"
    "  mpirun -n 2 longship eval runs/books --tokens books.tokens\n"
    "  longship generate runs/books --prompt \"It is a truth\"\n"
    "  mpirun -n 2 longship bench attention collectives";

constexpr const char* kExitCodes =
    "Exit codes: 0 done, 2 configuration, 3 corrupt data, 4 out of memory, 5 communication\n"
    "time-out, 6 non-finite, 7 storage, 70 internal error, 75 stopped by a signal and saved.";

// --set takes one value each time, so that a positional argument may follow it.
void add_overrides(CLI::App& verb, std::vector<std::string>& overrides, const char* help) {
  verb.add_option("--set", overrides, help)->allow_extra_args(false);
}

void add_train(CLI::App& app, longship::TrainArguments& arguments) {
  CLI::App* verb = app.add_subcommand(
      "train",
      "Train a model. Start it under mpirun; the ranks share each sequence (parallel.sp)\n"
      "and the batch (parallel.dp). The same command resumes a run that was stopped.");
  verb->add_option("config", arguments.config, "Run configuration (see launch/config.proto)")
      ->required();
  add_overrides(*verb, arguments.overrides,
                "Override a field: --set train.steps=200 (may be repeated)");
}

// What both verbs that make recall tasks take.
void add_recall_sizes(CLI::App& verb, CLI::Option& needs, std::vector<int64_t>& lengths,
                      std::vector<int64_t>& pairs, uint64_t& seed) {
  verb.add_option("--lengths", lengths, "Tokens of a document of a recall task: 1024,4096")
      ->needs(&needs)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  verb.add_option("--pairs", pairs, "Pairs of a key and a value in a document, 4 tokens each: 8,32")
      ->needs(&needs)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  verb.add_option("--seed", seed, "Seed of the documents")->needs(&needs)->capture_default_str();
}

void add_prepare(CLI::App& app, longship::PrepareArguments& arguments) {
  CLI::App* verb = app.add_subcommand(
      "prepare",
      "Turn text into a token file: .txt files (one document each), .jsonl files\n"
      "(one document a line) or folders of both. Or make up documents whose answers\n"
      "stand earlier in them, for `longship eval --recall`.");
  CLI::Option_group* source = verb->add_option_group("Source");
  source->require_option(1);
  source->add_option("--input", arguments.inputs, "Text file, JSONL file or folder (repeatable)");
  CLI::Option* synthetic = source->add_option(
      "--synthetic", arguments.synthetic,
      "Instead of text: documents of the tasks passkey, associative, or in turn of both, of\n"
      "which only answers count in the loss; or random, tokens to time a training step with");
  synthetic->delimiter(',');
  verb->add_option("--output", arguments.output, "Token file to write")->required();
  verb->add_option("--tokenizer", arguments.tokenizer,
                   "\"byte\" (256 bytes and two special tokens) or a SentencePiece .model file")
      ->capture_default_str();
  verb->add_option("--text-field", arguments.text_field, "JSONL field that holds the text")
      ->capture_default_str();
  verb->add_option("--prompt-field", arguments.prompt_field,
                   "JSONL field whose tokens come first and are not trained on, where present")
      ->capture_default_str();
  verb->add_option("--split-on", arguments.split_on,
                   "Cut .txt files into documents at each occurrence of this text");
  verb->add_option("--min-tokens", arguments.min_tokens, "Drop shorter documents")
      ->capture_default_str();
  verb->add_flag("--allow-invalid-utf8", arguments.allow_invalid_utf8,
                 "Replace invalid UTF-8 by U+FFFD instead of stopping");
  verb->add_flag("--overwrite", arguments.overwrite, "Replace the output if it exists");
  verb->add_option("--threads", arguments.num_threads, "Worker threads; 0 uses all cores")
      ->capture_default_str();
  verb->add_option("--documents", arguments.num_documents, "Synthetic documents")
      ->needs(synthetic)
      ->capture_default_str();
  add_recall_sizes(*verb, *synthetic, arguments.lengths, arguments.pairs, arguments.seed);
}

void add_eval(CLI::App& app, longship::EvalArguments& arguments) {
  CLI::App* verb = app.add_subcommand(
      "eval",
      "Loss and perplexity of a checkpoint on a token file, by position in the document;\n"
      "or how well it recalls what was said earlier: pass keys by length and depth, and\n"
      "values of keys by their number and distance. Runs on any number of ranks.");
  verb->add_option("checkpoint", arguments.checkpoint, "Run folder or checkpoint folder")
      ->required();
  CLI::Option_group* what = verb->add_option_group("What");
  what->require_option(1);
  CLI::Option* tokens =
      what->add_option("--tokens", arguments.tokens, "Token file made by `longship prepare`");
  CLI::Option* recall = what->add_flag("--recall", arguments.recall, "Recall tasks");
  verb->add_option("--context", arguments.context, "Longest piece of a document; 0: as trained")
      ->needs(tokens)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--max-samples", arguments.max_samples, "Evaluate so many samples; 0: all")
      ->needs(tokens)
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--tokenizer", arguments.tokenizer,
                   "\"byte\" or the SentencePiece model that the checkpoint was trained with")
      ->needs(recall)
      ->capture_default_str();
  verb->add_option("--tasks", arguments.tasks, "Recall tasks: passkey, associative")
      ->needs(recall)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  verb->add_option("--depths", arguments.depths, "Where the pass key is told, in percent: 0,50,100")
      ->needs(recall)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->capture_default_str();
  verb->add_option("--samples", arguments.num_samples,
                   "Documents of each length with each depth or number of pairs")
      ->needs(recall)
      ->capture_default_str();
  add_recall_sizes(*verb, *recall, arguments.lengths, arguments.pairs, arguments.seed);
  verb->add_option("--json", arguments.json, "Also write the result to this file");
  add_overrides(*verb, arguments.overrides,
                "Override a field of the checkpoint's configuration, such as\n"
                "model.attention.rope_theta=500000");
}

void add_generate(CLI::App& app, longship::GenerateArguments& arguments) {
  CLI::App* verb = app.add_subcommand("generate", "Continue a prompt with a trained model.");
  verb->add_option("checkpoint", arguments.checkpoint, "Run folder or checkpoint folder")
      ->required();
  auto* prompt = verb->add_option("--prompt", arguments.prompt, "Text to continue");
  verb->add_option("--prompt-file", arguments.prompt_file, "File with the text to continue")
      ->excludes(prompt);
  verb->add_option("--tokenizer", arguments.tokenizer,
                   "SentencePiece model the tokens were made with; default: byte-level");
  verb->add_option("--max-tokens", arguments.max_tokens, "Tokens to generate")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--temperature", arguments.temperature,
                   "0 takes the likeliest token; higher is more random")
      ->capture_default_str();
  verb->add_option("--top-k", arguments.top_k, "Sample among the k likeliest tokens; 0: all")
      ->capture_default_str();
  verb->add_option("--top-p", arguments.top_p,
                   "Sample among the likeliest tokens that together have this probability")
      ->capture_default_str();
  verb->add_option("--seed", arguments.seed, "Seed of sampling")->capture_default_str();
  add_overrides(*verb, arguments.overrides, "Override a field of the configuration");
}

void add_inspect(CLI::App& app, longship::InspectArguments& arguments) {
  CLI::App* verb = app.add_subcommand(
      "inspect", "Show what is in a configuration, a token file, a checkpoint or a run folder.");
  verb->add_option("path", arguments.path, "What to look at");
  verb->add_flag("--verify", arguments.verify, "Read everything and check every checksum");
  verb->add_flag("--strategies", arguments.strategies,
                 "List the sequence-parallel strategies and what each supports");
  verb->add_flag("--devices", arguments.devices,
                 "List the GPUs of this machine, their memory, driver and links");
  verb->add_option("--ranks", arguments.num_ranks, "Ranks to check a configuration for")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add_overrides(*verb, arguments.overrides, "Override a field of the configuration");
}

void add_bench(CLI::App& app, longship::BenchArguments& arguments) {
  CLI::App* verb = app.add_subcommand(
      "bench",
      "Measure attention, collectives or whole training steps on these ranks, a line a case:\n"
      "time, rate, what the hardware needs at least, and the share of it.");
  verb->add_option("kinds", arguments.kinds, "attention, collectives, step")
      ->required()
      ->check(CLI::IsMember({"attention", "collectives", "step"}));
  verb->add_option("--device", arguments.device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  verb->add_flag("--deterministic", arguments.deterministic,
                 "Kernels that repeat their bits, on GPUs too");
  verb->add_option("--rounds", arguments.num_rounds, "Rounds; the median counts")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_option("--json", arguments.json,
                   "Also write the cases to this file, one object a line");
  auto list = [&](const char* name, auto& values, const char* help) {
    return verb->add_option(name, values, help)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->capture_default_str();
  };
  list("--lengths", arguments.lengths, "attention: tokens of the sequence: 64K,1M")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  verb->add_option("--heads", arguments.heads,
                   "attention: query heads / key-value heads x head size")
      ->capture_default_str();
  list("--strategies", arguments.strategies,
       "attention: strategies; default: local on one rank, else ulysses,ring,gather_kv");
  verb->add_option("--documents", arguments.mean_document,
                   "attention: random documents of this mean length; 0: one document")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--window", arguments.window, "attention: sliding window; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  list("--bytes", arguments.message_bytes, "collectives: message sizes: 4K,256M")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  verb->add_option("--config", arguments.config,
                   "step: run configuration; its tokens are replaced by random ones");
  add_overrides(*verb, arguments.overrides, "step: override a field of the configuration");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(kAbout, "longship");
  app.require_subcommand(1);
  app.footer(kExitCodes);
  app.set_version_flag("--version", LONGSHIP_VERSION);
  longship::TrainArguments train;
  longship::PrepareArguments prepare;
  longship::EvalArguments eval;
  longship::GenerateArguments generate;
  longship::InspectArguments inspect;
  longship::BenchArguments bench;
  add_prepare(app, prepare);
  add_train(app, train);
  add_eval(app, eval);
  add_generate(app, generate);
  add_inspect(app, inspect);
  add_bench(app, bench);
  for (int i = 0; i < argc; ++i)
    bench.command_line += fmt::format("{}{}", i > 0 ? " " : "", argv[i]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(ErrorCode::kConfig);
  }
  return longship::guarded_main([&] {
    if (app.got_subcommand("train")) return longship::run_train(train);
    if (app.got_subcommand("prepare"))
      return prepare.synthetic.empty() ? longship::run_prepare(prepare)
                                       : longship::run_prepare_synthetic(prepare);
    if (app.got_subcommand("eval"))
      return eval.recall ? longship::run_eval_recall(eval) : longship::run_eval(eval);
    if (app.got_subcommand("generate")) return longship::run_generate(generate);
    if (app.got_subcommand("bench")) return longship::run_bench(bench);
    return longship::run_inspect(inspect);
  });
}
