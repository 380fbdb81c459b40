// longship generate: continues a prompt with a trained model, on any number of ranks. Every new
// token runs the model over the whole text so far, split over the ranks like a training sequence.
#include <cstdio>
#include <fstream>
#include <optional>
#include <sstream>

#include "data/tokenizer.h"
#include "launch/agreement.h"
#include "launch/checkpointing.h"
#include "launch/growing_text.h"
#include "launch/inference_config.h"
#include "launch/job.h"
#include "launch/layers.h"
#include "launch/sampling.h"
#include "launch/verbs.h"
#include "runtime/gpu.h"
#include "runtime/host_copy.h"

namespace longship {
namespace {

std::string read_prompt(const GenerateArguments& arguments) {
  if (arguments.prompt_file.empty()) return arguments.prompt;
  std::ifstream file(arguments.prompt_file, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf()))
    throw Error(ErrorCode::kStorage,
                {.what = fmt::format("cannot read prompt {}", arguments.prompt_file),
                 .expected = "a readable, non-empty file"});
  return text.str();
}

// The next token, chosen on the rank that holds the last one, the same on every rank.
int32_t next_token(const Job& job, Model& model, Layout layout, const std::vector<int32_t>& text,
                   const SamplingOptions& sampling, int64_t index) {
  Context ctx = job.ctx;
  const int64_t length = static_cast<int64_t>(text.size());
  const SequencePlan plan =
      SequencePlan::make({0, length}, layout, job.world.size(), job.world.rank());
  const Context host = host_context(ctx);
  const Tensor whole = Tensor::from<int32_t>(host.memory, {length}, text);
  const Tensor hidden_TE =
      model.transformer->hidden_states(ctx, upload(ctx, plan.shard(host, whole)), plan).value();
  int64_t chosen = -1;
  for (const Segment& segment : plan.local_segments()) {
    if (segment.global_begin + segment.length != length) continue;
    const Tensor last_1E = hidden_TE.slice(0, segment.slot + segment.length - 1, 1);
    const Tensor logits_1V = model.transformer->logits(ctx, last_1E).to(host.memory);
    chosen = sample_token(logits_1V.to(DType::kF32).reshape({-1}), sampling, index);
  }
  return static_cast<int32_t>(job.world.all_reduce_value("generate.token", chosen, ReduceOp::kMax));
}

}  // namespace

int run_generate(const GenerateArguments& arguments) {
  Job job;
  const Checkpoint checkpoint = open_verified_checkpoint(
      arguments.checkpoint, job.world, [&](const std::string& message) { job.say(message); });
  const config::Run run =
      inference_config(checkpoint, arguments.overrides, job.world.size(), std::nullopt);
  job.choose_device(run);
  std::shared_ptr<const Tokenizer> tokenizer;
  std::string prompt;
  Model model = make_model(job.ctx, run, job.world);
  run_together(job.world, "generate.open", [&] {
    tokenizer = make_tokenizer(arguments.tokenizer.empty() ? "byte" : arguments.tokenizer);
    check_tokenizer(checkpoint, tokenizer->hash(), tokenizer->description());
    prompt = read_prompt(arguments);
    read_weights(checkpoint, model.parameters, checkpoint.directory().string());
  });

  std::vector<int32_t> text = {tokenizer->bos()};
  for (int32_t token : tokenizer->encode(prompt)) text.push_back(token);
  const SamplingOptions sampling{.temperature = arguments.temperature,
                                 .top_k = arguments.top_k,
                                 .top_p = arguments.top_p,
                                 .seed = arguments.seed};
  GrowingText printed(*tokenizer);
  for (int64_t i = 0;; ++i) {
    const bool is_last = i >= arguments.max_tokens || text.back() == tokenizer->eos();
    const std::string piece = printed.next(text, is_last);
    if (job.is_first_rank()) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    }
    if (is_last) break;
    text.push_back(next_token(job, model, layout_of(run), text, sampling, i));
  }
  job.say("");
  return 0;
}

}  // namespace longship
