// longship inspect: what is in a configuration, a token file, a checkpoint or a run folder.
#include <cstdio>
#include <filesystem>

#include "attention/strategy_table.h"
#include "data/length_statistics.h"
#include "data/token_file.h"
#include "launch/config.h"
#include "launch/device_summary.h"
#include "launch/layer_summary.h"
#include "launch/run_folder.h"
#include "launch/state_memory.h"
#include "launch/validate.h"
#include "launch/verbs.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/checkpoint/checkpoint_store.h"
#include "runtime/telemetry/progress_line.h"

namespace longship {
namespace {

namespace fs = std::filesystem;

void print(const std::string& text) {
  std::printf("%s\n", text.c_str());
}

void inspect_config(const InspectArguments& arguments) {
  config::Run run = load_config(arguments.path, arguments.overrides);
  validate(run, arguments.num_ranks, arguments.path);
  resolve_automatic_values(run, arguments.num_ranks);
  print(fmt::format("# {}, resolved for {} rank{}", arguments.path, arguments.num_ranks,
                    arguments.num_ranks == 1 ? "" : "s"));
  Context ctx;
  print("# layers: " + layer_ranges(run));
  for (const std::string& line : mixer_lines(run)) print("#   " + line);
  print("# parameters:");
  for (const std::string& line : parameter_lines(ctx, run)) print("#   " + line);
  print("# memory: " + state_memory_text(run, count_parameters(ctx, run), arguments.num_ranks));
  print(config_text(run));
}

void inspect_tokens(const InspectArguments& arguments) {
  const auto tokens = TokenFile::open(arguments.path);
  const LengthStatistics lengths(tokens->document_lengths());
  print(fmt::format("token file {}: {}", arguments.path, short_bytes(tokens->num_bytes())));
  print(fmt::format("  {} documents, {} tokens of {} bytes; {}; loss mask: {}",
                    tokens->num_documents(), tokens->num_tokens(), tokens->token_bytes(),
                    tokens->tokenizer_description(), tokens->has_loss_mask() ? "yes" : "no"));
  print(lengths.text());
  if (arguments.verify) {
    tokens->verify();
    print("verified: every checksum and every token id is good");
  }
}

std::string size_of(const Checkpoint& checkpoint) {
  int64_t num_bytes = 0;
  for (const CheckpointFile& file : checkpoint.files()) num_bytes += file.num_bytes;
  return short_bytes(num_bytes);
}

void inspect_checkpoint(const fs::path& directory, bool verify) {
  const Checkpoint checkpoint = Checkpoint::open(directory);
  const CheckpointHeader& header = checkpoint.header();
  print(fmt::format("checkpoint {}: step {}, {}, written on dp {} x sp {}", directory.string(),
                    header.step, size_of(checkpoint), header.dp, header.sp));
  for (const auto& [name, value] : header.integers) print(fmt::format("  {} = {}", name, value));
  for (const auto& [name, value] : header.strings) print(fmt::format("  {} = {}", name, value));
  for (const CheckpointFile& file : checkpoint.files())
    print(fmt::format("  file {}  {}", file.name, short_bytes(file.num_bytes)));
  for (const CheckpointTensor& tensor : checkpoint.tensors())
    print(fmt::format("  {}  {} {}", tensor.name, dtype_name(tensor.dtype),
                      shape_string(tensor.shape)));
  if (verify) {
    checkpoint.verify();
    print("verified: every checksum is good");
  }
}

void inspect_run_folder(const InspectArguments& arguments) {
  const RunFolder folder{arguments.path};
  const auto checkpoints = list_checkpoints(folder.checkpoints());
  print(fmt::format("run folder {}: {} checkpoint{}", arguments.path, checkpoints.size(),
                    checkpoints.size() == 1 ? "" : "s"));
  for (const CheckpointLocation& location : checkpoints) {
    const Checkpoint checkpoint = Checkpoint::open(location.directory);
    if (arguments.verify) checkpoint.verify();
    print(fmt::format("  {}: step {}, {}{}", location.directory.filename().string(),
                      checkpoint.header().step, size_of(checkpoint),
                      arguments.verify ? ", verified" : ""));
  }
}

}  // namespace

int run_inspect(const InspectArguments& arguments) {
  if (arguments.strategies) {
    print(strategy_table());
    return 0;
  }
  if (arguments.devices) {
    print(device_summary(cuda_info()));
    return 0;
  }
  const fs::path path(arguments.path);
  if (!fs::exists(path))
    throw Error(ErrorCode::kStorage,
                {.what = fmt::format("`{}` does not exist", arguments.path),
                 .expected = "a configuration, token file, checkpoint or run folder"});
  if (fs::exists(path / "MANIFEST.pb")) {
    inspect_checkpoint(path, arguments.verify);
  } else if (fs::is_directory(path)) {
    inspect_run_folder(arguments);
  } else if (path.extension() == ".textproto") {
    inspect_config(arguments);
  } else {
    inspect_tokens(arguments);
  }
  return 0;
}

}  // namespace longship
