#include "launch/run_header.h"

#include "launch/layer_summary.h"
#include "launch/layers.h"
#include "launch/state_memory.h"
#include "launch/step_graphs.h"
#include "runtime/telemetry/progress_line.h"

namespace longship {
namespace {

std::string recomputation(const config::Train& train) {
  if (train.recompute() == config::Train::NONE) return "";
  const bool selective = train.recompute() == config::Train::SELECTIVE;
  const char* what =
      selective ? "norms, SwiGLU and RoPE recomputed" : "blocks recomputed, but for attention";
  if (train.recompute_layers() == 0) return fmt::format(" ({})", what);
  return fmt::format(" ({} in the first {} layers, {} in the others)", what,
                     train.recompute_layers(), selective ? "nothing" : "norms, SwiGLU and RoPE");
}

}  // namespace

std::string run_header(const config::Run& run, const Job& job, const Mesh& mesh, const Model& model,
                       const Packing& packing, const TokenFile& tokens) {
  const config::Train& train = run.train();
  const int64_t num_parameters = model.parameters.num_elements();
  const double epochs = static_cast<double>(train.steps() * train.global_batch()) /
                        static_cast<double>(packing.num_samples());
  std::string text;
  text += fmt::format("model     {} parameters, {} layers, hidden {}\n",
                      short_count(static_cast<double>(num_parameters)), run.model().num_layers(),
                      run.model().hidden_size());
  for (const std::string& line : mixer_lines(run)) text += fmt::format("          {}\n", line);
  text += fmt::format(
      "data      {}: {} documents, {} tokens ({}); {} packing, {} samples an epoch\n",
      tokens.path(), tokens.num_documents(), tokens.num_tokens(), tokens.tokenizer_description(),
      packing_mode_name(packing.options().mode), packing.num_samples());
  text += fmt::format("device    {}\n", job.device);
  text +=
      fmt::format("ranks     {} = dp {} x sp {}; {} layout; {} thread{} a rank\n",
                  mesh.world.size(), mesh.dp.size(), mesh.sp.size(), layout_name(layout_of(run)),
                  job.ctx.num_threads, job.ctx.num_threads == 1 ? "" : "s");
  text += fmt::format(
      "step      {} samples of up to {} tokens, {} tokens a rank and micro-batch; {} "
      "steps, {:.2f} epochs\n",
      train.global_batch(), train.context(),
      (train.micro_batch() * train.context() + mesh.sp.size() - 1) / mesh.sp.size(), train.steps(),
      epochs);
  const int64_t graph_tokens = most_graph_tokens(job.ctx, run, model, mesh.world);
  if (train.micro_batch() * train.context() <= graph_tokens)
    text += "launches  micro-batches as CUDA graphs, where lengths of documents come again\n";
  text +=
      fmt::format("memory    {}, plus activations{}\n",
                  state_memory_text(run, num_parameters, mesh.world.size()), recomputation(train));
  const bool repeats = job.ctx.gpu == nullptr || job.ctx.deterministic;
  text += fmt::format(
      "numerics  {}, {}",
      train.precision() == config::Train::BF16 ? "bf16 compute with fp32 weights and sums" : "fp32",
      repeats ? "deterministic: the same command gives the same bits"
              : "not deterministic: attention's backward adds in any order; "
                "train.deterministic: true makes it slower and repeatable");
  return text;
}

}  // namespace longship
