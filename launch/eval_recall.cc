// longship eval --recall: how much of what was said earlier in a document a checkpoint can repeat,
// by length of the document, and by depth or distance.
#include <algorithm>
#include <bit>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "launch/agreement.h"
#include "launch/checkpointing.h"
#include "launch/inference_config.h"
#include "launch/job.h"
#include "launch/layers.h"
#include "launch/recall_score.h"
#include "launch/verbs.h"
#include "runtime/io/atomic_file.h"

namespace longship {
namespace {

using nlohmann::json;

// What was asked for, with defaults filled in; all of it can be run.
struct RecallPlan {
  std::vector<int64_t> lengths, depths, pairs;  // depths or pairs empty: without that task
  int64_t num_samples = 0;
  uint64_t seed = 0;

  int64_t longest() const { return std::ranges::max(lengths); }
};

[[noreturn]] void refuse(std::string what, std::string expected) {
  throw Error(ErrorCode::kConfig, {.what = std::move(what), .expected = std::move(expected)});
}

RecallPlan plan_of(const EvalArguments& arguments, int64_t trained_context,
                   const PasskeyTask& passkey, const AssociativeTask& associative) {
  auto wants = [&](std::string_view task) {
    return std::ranges::find(arguments.tasks, task) != arguments.tasks.end();
  };
  for (const std::string& task : arguments.tasks)
    if (task != PasskeyTask::kName && task != AssociativeTask::kName)
      refuse(fmt::format("unknown recall task `{}`", task),
             fmt::format("{} or {}", PasskeyTask::kName, AssociativeTask::kName));
  RecallPlan plan{.lengths = arguments.lengths,
                  .depths = {},
                  .pairs = {},
                  .num_samples = arguments.num_samples,
                  .seed = arguments.seed};
  if (plan.num_samples < 1) refuse(fmt::format("--samples {}", plan.num_samples), "at least 1");
  if (plan.lengths.empty()) plan.lengths = {trained_context};
  const int64_t shortest = std::ranges::min(plan.lengths);
  if (wants(PasskeyTask::kName)) {
    plan.depths = arguments.depths;
    for (int64_t depth : plan.depths)
      if (depth < 0 || depth > 100) refuse(fmt::format("--depths {}", depth), "0 to 100 percent");
    for (int64_t i = 0; i < plan.num_samples; ++i)
      if (const int64_t least = passkey.least_length(plan.seed, i); shortest < least)
        refuse(fmt::format("--lengths {}", shortest),
               fmt::format("at least {} tokens for a pass key and its question", least));
  }
  if (wants(AssociativeTask::kName)) {
    plan.pairs = arguments.pairs;
    for (int64_t pairs : plan.pairs) {
      if (pairs < 1 || pairs > associative.max_pairs())
        refuse(fmt::format("--pairs {}", pairs),
               fmt::format("1 to {} with the ids of this tokenizer", associative.max_pairs()));
      if (const int64_t least = AssociativeTask::least_length(pairs); plan.longest() < least)
        refuse(fmt::format("--lengths {}", plan.longest()),
               fmt::format("at least {} tokens for {} pairs", least, pairs));
    }
  }
  if (plan.depths.empty() && plan.pairs.empty())
    refuse("nothing to evaluate", "at least one of --tasks with its --depths or --pairs");
  return plan;
}

// Answers of one cell of a table.
class Cell {
 public:
  void add(const AnswerScore& score) {
    ++num_answers_;
    num_right_ += score.is_right ? 1 : 0;
    log_probability_ += score.log_probability;
  }

  // `where` with what was measured there. More than guessing is what guessing reaches in less than
  // one of 700 cases: three standard deviations.
  json as_json(json where, double chance) const {
    const double n = static_cast<double>(num_answers_), right = static_cast<double>(num_right_);
    where.update({{"answers", num_answers_},
                  {"accuracy", right / n},
                  {"log_probability", log_probability_ / n},
                  {"chance", chance},
                  {"above_chance", right > n * chance + 3 * std::sqrt(n * chance * (1 - chance))}});
    return where;
  }

 private:
  int64_t num_answers_ = 0, num_right_ = 0;
  double log_probability_ = 0;
};

// Runs the model on samples, as many at once as the longest sample has room for.
class RecallRunner {
 public:
  RecallRunner(const Job& job, Model& model, Layout layout, int64_t max_tokens)
      : job_(job), model_(model), layout_(layout), max_tokens_(max_tokens) {}

  // Calls f(answer, its score) for all answers of the samples make(0), .., make(num_samples - 1).
  template <class Make, class F>
  void run(int64_t num_samples, Make&& make, F&& f) const {
    std::vector<RecallSample> samples;
    int64_t num_tokens = 0;
    for (int64_t i = 0; i < num_samples; ++i) {
      samples.push_back(make(i));
      num_tokens += std::ssize(samples.back().tokens);
      if (i + 1 < num_samples && num_tokens + std::ssize(samples.back().tokens) <= max_tokens_)
        continue;
      const std::vector<AnswerScore> scores = scores_of(samples);
      auto score = scores.begin();
      for (const RecallSample& sample : samples)
        for (const RecallAnswer& answer : sample.answers) f(answer, *score++);
      samples.clear();
      num_tokens = 0;
    }
  }

 private:
  std::vector<AnswerScore> scores_of(std::span<const RecallSample> samples) const {
    Context ctx = job_.ctx;
    const RecallBatch batch(ctx, samples, layout_, job_.world);
    const Tensor hidden_TE =
        model_.transformer->hidden_states(ctx, batch.tokens_T, batch.plan).value();
    return score_answers(ctx, job_.world, batch, hidden_TE, [&](const Tensor& hidden_NE) {
      return model_.transformer->logits(ctx, hidden_NE);
    });
  }

  const Job& job_;
  Model& model_;
  Layout layout_;
  int64_t max_tokens_;
};

json run_passkey(const RecallRunner& runner, const PasskeyTask& task, const RecallPlan& plan) {
  json cells = json::array();
  for (int64_t length : plan.lengths)
    for (int64_t depth : plan.depths) {
      Cell cell;
      runner.run(
          plan.num_samples, [&](int64_t i) { return task.sample(length, depth, plan.seed, i); },
          [&](const RecallAnswer&, const AnswerScore& score) { cell.add(score); });
      cells.push_back(cell.as_json({{"length", length}, {"depth", depth}}, PasskeyTask::kChance));
    }
  return cells;
}

// Cells of [2^b, 2^(b+1)) tokens between a value and its repetition. Pairs that a length has no
// room for are left out.
json run_associative(const RecallRunner& runner, const AssociativeTask& task,
                     const RecallPlan& plan) {
  json cells = json::array();
  for (int64_t length : plan.lengths)
    for (int64_t pairs : plan.pairs) {
      if (length < AssociativeTask::least_length(pairs)) continue;
      std::map<int64_t, Cell> by_distance;
      Cell all;
      runner.run(
          plan.num_samples, [&](int64_t i) { return task.sample(length, pairs, plan.seed, i); },
          [&](const RecallAnswer& answer, const AnswerScore& score) {
            const auto distance = static_cast<uint64_t>(answer.distance());
            by_distance[static_cast<int64_t>(std::bit_floor(distance))].add(score);
            all.add(score);
          });
      const double chance = AssociativeTask::chance(pairs);
      json row = all.as_json({{"length", length}, {"pairs", pairs}}, chance);
      for (const auto& [begin, cell] : by_distance)
        row["by_distance"].push_back(cell.as_json({{"begin", begin}, {"end", 2 * begin}}, chance));
      cells.push_back(std::move(row));
    }
  return cells;
}

// Accuracy, with a star where it is more than guessing.
std::string accuracy_text(const json& cell) {
  return fmt::format("{:.3f}{}", cell["accuracy"].get<double>(),
                     cell["above_chance"].get<bool>() ? "*" : " ");
}

std::string passkey_table(const json& cells, const RecallPlan& plan) {
  std::string text = fmt::format(
      "passkey: keys repeated whole, by depth (guessing {:.5f}); below, log-probability a token\n"
      "{:>9}",
      PasskeyTask::kChance, "length");
  for (int64_t depth : plan.depths) text += fmt::format(" {:>8}%", depth);
  auto cell = cells.begin();
  for (int64_t length : plan.lengths) {
    std::string log_probabilities = fmt::format("\n{:>9}", "");
    text += fmt::format("\n{:>9}", length);
    for (size_t i = 0; i < plan.depths.size(); ++i, ++cell) {
      text += fmt::format(" {:>9}", accuracy_text(*cell));
      log_probabilities += fmt::format(" {:>8.3f} ", (*cell)["log_probability"].get<double>());
    }
    text += log_probabilities;
  }
  return text;
}

std::string associative_table(const json& cells) {
  std::map<int64_t, size_t> columns;  // of all rows
  for (const json& row : cells)
    for (const json& cell : row["by_distance"]) columns.emplace(cell["begin"], 0);
  std::string text = fmt::format(
      "associative: values recalled, by distance to the pair in tokens\n{:>9} {:>6} {:>8} {:>9}",
      "length", "pairs", "guessing", "all");
  for (const auto& [begin, unused] : columns) text += fmt::format(" {:>8}+", begin);
  for (const json& row : cells) {
    text +=
        fmt::format("\n{:>9} {:>6} {:>8.3f} {:>9}", row["length"].get<int64_t>(),
                    row["pairs"].get<int64_t>(), row["chance"].get<double>(), accuracy_text(row));
    std::map<int64_t, std::string> found;
    for (const json& cell : row["by_distance"]) found[cell["begin"]] = accuracy_text(cell);
    for (const auto& [begin, unused] : columns) text += fmt::format(" {:>9}", found[begin]);
  }
  return text;
}

}  // namespace

int run_eval_recall(const EvalArguments& arguments) {
  Job job;
  const Checkpoint checkpoint = open_verified_checkpoint(
      arguments.checkpoint, job.world, [&](const std::string& message) { job.say(message); });
  std::shared_ptr<const Tokenizer> tokenizer;
  run_together(job.world, "recall.tokenizer", [&] {
    tokenizer = make_tokenizer(arguments.tokenizer);
    check_tokenizer(checkpoint, tokenizer->hash(), tokenizer->description());
  });
  const PasskeyTask passkey(*tokenizer);
  const AssociativeTask associative(*tokenizer);
  const int64_t trained_context =
      inference_config(checkpoint, {}, job.world.size(), std::nullopt).train().context();
  const RecallPlan plan = plan_of(arguments, trained_context, passkey, associative);
  const config::Run run =
      inference_config(checkpoint, arguments.overrides, job.world.size(), plan.longest());
  job.choose_device(run);
  Model model = make_model(job.ctx, run, job.world);
  run_together(job.world, "recall.weights", [&] {
    read_weights(checkpoint, model.parameters, checkpoint.directory().string());
  });

  const RecallRunner runner(job, model, layout_of(run), plan.longest());
  json result = {{"checkpoint", checkpoint.directory().string()},
                 {"step", checkpoint.header().step},
                 {"samples", plan.num_samples},
                 {"seed", plan.seed}};
  if (!plan.depths.empty()) {
    result["passkey"] = run_passkey(runner, passkey, plan);
    job.say(passkey_table(result["passkey"], plan));
  }
  if (!plan.pairs.empty()) {
    result["associative"] = run_associative(runner, associative, plan);
    job.say(associative_table(result["associative"]));
  }
  job.say("* more than guessing, by three standard deviations");
  run_together(job.world, "recall.json", [&] {
    if (job.is_first_rank() && !arguments.json.empty())
      write_file_atomically(arguments.json, result.dump(2) + "\n");
  });
  return 0;
}

}  // namespace longship
