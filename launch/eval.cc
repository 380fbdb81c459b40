// longship eval: loss and perplexity of a checkpoint, over all tokens and by position.
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/batch.h"
#include "launch/agreement.h"
#include "launch/checkpointing.h"
#include "launch/inference_config.h"
#include "launch/job.h"
#include "launch/layers.h"
#include "launch/verbs.h"
#include "runtime/gpu.h"
#include "runtime/host_copy.h"
#include "runtime/io/atomic_file.h"

namespace longship {
namespace {

// Losses by position in the piece of a document that the model sees. Bucket 0 holds positions
// [0, 64), bucket b > 0 holds [32 * 2^b, 64 * 2^b).
class PositionBuckets {
 public:
  static size_t bucket_of(int64_t position) {
    return static_cast<size_t>(std::bit_width(static_cast<uint64_t>(position) >> 6));
  }
  static int64_t begin_of(size_t bucket) { return bucket == 0 ? 0 : int64_t{64} << (bucket - 1); }
  static int64_t end_of(size_t bucket) { return int64_t{64} << bucket; }

  explicit PositionBuckets(int64_t context)
      : losses_(bucket_of(context - 1) + 1, 0.0), counts_(losses_.size(), 0) {}

  void add(int64_t position, double loss) {
    const size_t bucket = bucket_of(position);
    losses_[bucket] += loss;
    counts_[bucket] += 1;
  }

  // Sums the buckets of all ranks.
  void reduce(const Group& world) {
    for (size_t b = 0; b < losses_.size(); ++b) {
      losses_[b] = world.all_reduce_value("eval.loss", losses_[b], ReduceOp::kSum);
      counts_[b] = world.all_reduce_value("eval.count", counts_[b], ReduceOp::kSum);
    }
  }

  size_t size() const { return losses_.size(); }
  double loss(size_t b) const { return losses_[b]; }
  int64_t count(size_t b) const { return counts_[b]; }

 private:
  std::vector<double> losses_;
  std::vector<int64_t> counts_;
};

// `batch` and its losses on the host.
void add_losses(const Batch& batch, const Tensor& losses_T, PositionBuckets& buckets) {
  const float* losses = losses_T.data<float>();
  const float* weights = batch.loss_weights_T.data<float>();
  for (const Segment& segment : batch.plan.local_segments())
    for (int64_t i = 0; i < segment.length; ++i)
      if (weights[segment.slot + i] != 0)
        buckets.add(segment.position + i, static_cast<double>(losses[segment.slot + i]));
}

nlohmann::json as_json(const PositionBuckets& buckets, double loss, int64_t count,
                       const Checkpoint& checkpoint, const config::Run& run,
                       const std::string& tokens) {
  nlohmann::json by_position = nlohmann::json::array();
  for (size_t b = 0; b < buckets.size(); ++b) {
    if (buckets.count(b) == 0) continue;
    const double mean = buckets.loss(b) / static_cast<double>(buckets.count(b));
    by_position.push_back({{"begin", PositionBuckets::begin_of(b)},
                           {"end", PositionBuckets::end_of(b)},
                           {"tokens", buckets.count(b)},
                           {"loss", mean},
                           {"perplexity", std::exp(mean)}});
  }
  nlohmann::json report = {{"checkpoint", checkpoint.directory().string()},
                           {"step", checkpoint.header().step},
                           {"tokens_file", tokens},
                           {"context", run.train().context()},
                           {"tokens", count},
                           {"loss", loss},
                           {"perplexity", std::exp(loss)},
                           {"by_position", by_position}};
  // Stacks of several kinds of layers have no one base of theirs.
  if (run.model().has_attention()) report["rope_theta"] = run.model().attention().rope_theta();
  return report;
}

std::string as_table(const nlohmann::json& result) {
  std::string text =
      fmt::format("{:>17} {:>10} {:>9} {:>11}\n", "position", "tokens", "loss", "perplexity");
  for (const auto& row : result["by_position"])
    text += fmt::format("{:>8} - {:>6} {:>10} {:>9.4f} {:>11.3f}\n", row["begin"].get<int64_t>(),
                        row["end"].get<int64_t>(), row["tokens"].get<int64_t>(),
                        row["loss"].get<double>(), row["perplexity"].get<double>());
  text += fmt::format("{:>17} {:>10} {:>9.4f} {:>11.3f}", "all", result["tokens"].get<int64_t>(),
                      result["loss"].get<double>(), result["perplexity"].get<double>());
  return text;
}

}  // namespace

int run_eval(const EvalArguments& arguments) {
  Job job;
  const Checkpoint checkpoint = open_verified_checkpoint(
      arguments.checkpoint, job.world, [&](const std::string& message) { job.say(message); });
  const config::Run run =
      inference_config(checkpoint, arguments.overrides, job.world.size(),
                       arguments.context > 0 ? std::optional(arguments.context) : std::nullopt);
  job.choose_device(run);
  Model model = make_model(job.ctx, run, job.world);
  std::shared_ptr<const TokenFile> tokens;
  run_together(job.world, "eval.open", [&] {
    read_weights(checkpoint, model.parameters, checkpoint.directory().string());
    tokens = TokenFile::open(arguments.tokens);
  });
  const auto packing = std::make_shared<const Packing>(
      tokens->document_lengths(),
      PackingOptions{.context = run.train().context(), .mode = PackingMode::kBestFit, .seed = 0});
  const Context host = host_context(job.ctx);
  const BatchBuilder builder(
      tokens, packing,
      {.layout = layout_of(run), .num_ranks = job.world.size(), .rank = job.world.rank()},
      run.model().vocab_size(), host.memory);

  PositionBuckets buckets(run.train().context());
  const int64_t num_samples = arguments.max_samples > 0
                                  ? std::min(arguments.max_samples, packing->num_samples())
                                  : packing->num_samples();
  for (int64_t sample = 0; sample < num_samples; ++sample) {
    const Batch batch = builder.build(sample, 1);
    const Tensor losses_T = model.transformer->token_losses(
        job.ctx, upload(job.ctx, batch.tokens_T), upload(job.ctx, batch.targets_T), batch.plan);
    add_losses(batch, losses_T.to(host.memory), buckets);
  }
  buckets.reduce(job.world);

  double loss_sum = 0;
  int64_t count = 0;
  for (size_t b = 0; b < buckets.size(); ++b) {
    loss_sum += buckets.loss(b);
    count += buckets.count(b);
  }
  if (count == 0)
    throw Error(ErrorCode::kCorrupt, {.what = fmt::format("{} has no loss token", arguments.tokens),
                                      .next = "evaluate on text without prompts only"});
  const nlohmann::json result = as_json(buckets, loss_sum / static_cast<double>(count), count,
                                        checkpoint, run, arguments.tokens);
  job.say(as_table(result));
  run_together(job.world, "eval.json", [&] {
    if (job.is_first_rank() && !arguments.json.empty())
      write_file_atomically(arguments.json, result.dump(2) + "\n");
  });
  return 0;
}

}  // namespace longship
