#include "launch/checkpointing.h"

#include <algorithm>
#include <filesystem>
#include <iterator>

#include "launch/agreement.h"
#include "launch/config.h"
#include "launch/config_changes.h"
#include "launch/run_folder.h"
#include "runtime/checkpoint/checkpoint_store.h"
#include "runtime/checkpoint/checkpoint_writer.h"
#include "runtime/checkpoint/flat_slices.h"

namespace longship {
namespace {

namespace fs = std::filesystem;

// Integers of the checkpoint header.
constexpr const char* kNextSample = "data.next_sample";
constexpr const char* kTokensConsumed = "tokens_consumed";
constexpr const char* kOptimizerSteps = "optim.num_steps";
constexpr const char* kDataHash = "data.content_hash";
constexpr const char* kTokenizerHash = "data.tokenizer_hash";
// A string of it.
constexpr const char* kTokenizer = "data.tokenizer";

// A tensor of the training state, a master or its moment, as far as this rank holds it: whole, or
// flat elements from `first_element` on.
struct HeldTensor {
  HeldTensor(NamedTensor tensor, const Parameter& parameter)
      : named(std::move(tensor)),
        shape(parameter.shape()),
        first_element(parameter.first_element),
        is_whole(named.tensor.numel() == num_elements(shape)) {
    if (is_whole) named.tensor = named.tensor.reshape(shape);
  }

  NamedTensor named;
  Shape shape;  // of the whole
  int64_t first_element;
  bool is_whole;
};

std::vector<HeldTensor> held_masters(const ParameterList& parameters) {
  std::vector<HeldTensor> held;
  for (const Parameter& parameter : parameters.all())
    held.emplace_back(NamedTensor{parameter.name, parameter.master}, parameter);
  return held;
}

std::vector<HeldTensor> held_moments(const CheckpointSource& source) {
  const std::vector<NamedTensor> state = source.optimizer.state();
  std::vector<HeldTensor> held;
  size_t index = 0;
  for (const Parameter& parameter : source.model.parameters.all())
    for (int moment = 0; moment < 2; ++moment) held.emplace_back(state[index++], parameter);
  return held;
}

void read_held(const Checkpoint& checkpoint, const HeldTensor& held) {
  if (held.is_whole)
    checkpoint.read(held.named.name, held.named.tensor);
  else
    checkpoint.read_run(held.named.name, held.shape, held.first_element, held.named.tensor);
}

// Every rank holds all tensors; each writes its share, about equal in bytes.
std::vector<NamedTensor> share_of(const Group& world, std::vector<NamedTensor> tensors) {
  std::vector<int64_t> load(static_cast<size_t>(world.size()), 0);
  std::vector<NamedTensor> mine;
  for (NamedTensor& entry : tensors) {
    const auto lightest = std::min_element(load.begin(), load.end());
    *lightest += entry.tensor.num_bytes();
    if (lightest - load.begin() == world.rank()) mine.push_back(std::move(entry));
  }
  return mine;
}

CheckpointHeader make_header(const CheckpointSource& source, const TrainingState& state) {
  CheckpointHeader header;
  header.step = state.step;
  header.config_text = config_text(source.run);
  header.integers = {{kNextSample, state.next_sample},
                     {kTokensConsumed, state.tokens_consumed},
                     {kOptimizerSteps, source.optimizer.num_steps()},
                     {kDataHash, static_cast<int64_t>(source.tokens.content_hash())},
                     {kTokenizerHash, static_cast<int64_t>(source.tokens.tokenizer_hash())}};
  header.strings = {{kTokenizer, source.tokens.tokenizer_description()}};
  header.dp = source.mesh.dp.size();
  header.sp = source.mesh.sp.size();
  header.versions = {{"longship", LONGSHIP_VERSION}};
  return header;
}

int64_t header_integer(const Checkpoint& checkpoint, const char* name) {
  const auto it = checkpoint.header().integers.find(name);
  if (it == checkpoint.header().integers.end())
    throw Error(ErrorCode::kCorrupt, {.what = fmt::format("{}: no training state `{}`",
                                                          checkpoint.directory().string(), name),
                                      .next = "this is not a checkpoint of `longship train`"});
  return it->second;
}

config::Run saved_config(const Checkpoint& checkpoint) {
  return parse_config(checkpoint.header().config_text, checkpoint.directory().string(), {});
}

void check_same_run(const CheckpointSource& source, const Checkpoint& checkpoint,
                    const Warn& warn) {
  const std::string origin = checkpoint.directory().string();
  auto [allowed, forbidden] = changes_on_resume(saved_config(checkpoint), source.run);
  if (static_cast<uint64_t>(header_integer(checkpoint, kDataHash)) != source.tokens.content_hash())
    forbidden += fmt::format("\n    the content of data.tokens ({})", source.run.data().tokens());
  if (!forbidden.empty())
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("cannot resume from {}: the run was started with{}", origin,
                                     forbidden),
                 .next = "restore these, or choose a new output_dir (and train.init_from to keep "
                         "the weights)"});
  if (!allowed.empty()) warn("resuming with changes:" + allowed);
}

// Opens and verifies, each rank reading its share of the blocks; all ranks succeed or fail alike.
Checkpoint open_together(const fs::path& directory, const Group& world) {
  std::optional<Checkpoint> checkpoint;
  run_together(world, "checkpoint.verify", [&] {
    checkpoint = Checkpoint::open(directory);
    checkpoint->verify(world.rank(), world.size());
  });
  return std::move(*checkpoint);
}

// The newest good one of `candidates`; nothing when the list is empty.
std::optional<Checkpoint> newest_good(const std::vector<CheckpointLocation>& candidates,
                                      const fs::path& root, const Group& world, const Warn& warn) {
  std::string damage;
  for (const CheckpointLocation& candidate : candidates) {
    try {
      return open_together(candidate.directory, world);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kCorrupt) throw;
      damage += fmt::format("\n    {}", error.what());
      warn(fmt::format("warning: skipping a damaged checkpoint: {}", error.what()));
    }
  }
  if (candidates.empty()) return std::nullopt;
  throw Error(ErrorCode::kCorrupt,
              {.what = fmt::format("every checkpoint in {} is damaged{}", root.string(), damage),
               .next = "restore one from a copy, or choose a new output_dir to start again"});
}

// Rank 0 looks, so that ranks cannot disagree about what is there.
std::vector<CheckpointLocation> list_together(const fs::path& root, const Group& world) {
  std::string names;
  run_together(world, "checkpoint.list", [&] {
    if (world.rank() != 0) return;
    for (const CheckpointLocation& location : list_checkpoints(root))
      names += location.directory.filename().string() + "\n";
  });
  names = world.broadcast_bytes("checkpoint.list", names, 0);
  std::vector<CheckpointLocation> locations;
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = names.find('\n', begin);
    locations.push_back({0, root / names.substr(begin, end - begin)});
    begin = end + 1;
  }
  return locations;
}

}  // namespace

void save_checkpoint(const CheckpointSource& source, const TrainingState& state) {
  const Group& world = source.mesh.world;
  const fs::path root = RunFolder{source.run.output_dir()}.checkpoints();
  std::optional<AtomicDirectory> directory;
  std::string temporary_path;
  run_together(world, "checkpoint.create", [&] {
    if (world.rank() != 0) return;
    directory.emplace(root / checkpoint_name(state.step));
    temporary_path = directory->temporary_path().string();
  });
  temporary_path = world.broadcast_bytes("checkpoint.path", temporary_path, 0);

  std::vector<NamedTensor> whole;
  std::vector<NamedSlice> slices;
  for (const auto& all : {held_moments(source), held_masters(source.model.parameters)})
    for (const HeldTensor& held : all) {
      if (held.is_whole)
        whole.push_back(held.named);
      else
        std::ranges::copy(flat_slices(held.named, held.first_element, held.shape),
                          std::back_inserter(slices));
    }
  if (source.run.parallel().zero() == config::Parallel::NONE)
    whole = share_of(world, std::move(whole));
  std::string record;
  run_together(world, "checkpoint.write",
               [&] { record = write_part(temporary_path, world.rank(), whole, slices); });
  const std::vector<std::string> records = world.all_gather_bytes("checkpoint.records", record);
  run_together(world, "checkpoint.commit", [&] {
    if (world.rank() != 0) return;
    commit_checkpoint(*directory, make_header(source, state), records);
    if (source.run.checkpoint().keep() > 0) prune(root, source.run.checkpoint().keep());
  });
}

std::optional<TrainingState> resume_from_checkpoint(const CheckpointSource& source,
                                                    const Warn& warn) {
  const Group& world = source.mesh.world;
  const fs::path root = RunFolder{source.run.output_dir()}.checkpoints();
  run_together(world, "checkpoint.orphans", [&] {
    if (world.rank() == 0 && fs::exists(root)) remove_orphans(root);
  });
  const std::vector<CheckpointLocation> candidates = list_together(root, world);
  const std::optional<Checkpoint> checkpoint = newest_good(candidates, root, world, warn);
  if (!checkpoint) return std::nullopt;
  if (!source.run.checkpoint().resume())
    throw Error(
        ErrorCode::kConfig,
        {.what = fmt::format("{} already holds a run", source.run.output_dir()),
         .found = fmt::format("{} and checkpoint.resume: false", checkpoint->directory().string()),
         .next = "choose a new output_dir, or set checkpoint.resume=true"});
  check_same_run(source, *checkpoint, warn);
  run_together(world, "checkpoint.read", [&] {
    read_weights(*checkpoint, source.model.parameters, checkpoint->directory().string());
    for (const HeldTensor& held : held_moments(source)) read_held(*checkpoint, held);
  });
  source.exchange.updated();
  source.optimizer.set_num_steps(header_integer(*checkpoint, kOptimizerSteps));
  TrainingState state;
  state.step = checkpoint->header().step;
  state.next_sample = header_integer(*checkpoint, kNextSample);
  state.tokens_consumed = header_integer(*checkpoint, kTokensConsumed);
  return state;
}

Checkpoint open_verified_checkpoint(const std::string& path, const Group& world, const Warn& warn) {
  const fs::path given(path);
  if (fs::exists(given / "MANIFEST.pb")) return open_together(given, world);
  const fs::path root = RunFolder{path}.checkpoints();
  std::optional<Checkpoint> checkpoint = newest_good(list_together(root, world), root, world, warn);
  if (!checkpoint)
    throw Error(ErrorCode::kStorage, {.what = fmt::format("no checkpoint in {}", path),
                                      .expected = "a run folder or a checkpoint folder",
                                      .next = "check the path; `longship inspect` shows folders"});
  return std::move(*checkpoint);
}

void start_from_weights(const std::string& path, const CheckpointSource& target, const Warn& warn) {
  const Checkpoint checkpoint = open_verified_checkpoint(path, target.mesh.world, warn);
  const std::string origin = checkpoint.directory().string();
  check_tokenizer(checkpoint, target.tokens.tokenizer_hash(),
                  target.tokens.tokenizer_description());
  const ConfigChanges changes = changes_from_origin(saved_config(checkpoint), target.run);
  if (!changes.forbidden.empty())
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("the weights of {} do not fit the model:{}", origin,
                                     changes.forbidden),
                 .next = "restore these, or train from the start without train.init_from"});
  run_together(target.mesh.world, "checkpoint.weights",
               [&] { read_weights(checkpoint, target.model.parameters, origin); });
  target.exchange.updated();
  warn(fmt::format("starting from the weights of {}{}{}", origin,
                   changes.allowed.empty() ? "" : ", with changes:", changes.allowed));
}

void check_tokenizer(const Checkpoint& checkpoint, uint64_t hash, const std::string& description) {
  if (static_cast<uint64_t>(header_integer(checkpoint, kTokenizerHash)) == hash) return;
  const auto it = checkpoint.header().strings.find(kTokenizer);
  throw Error(ErrorCode::kConfig,
              {.what = fmt::format("{} was trained with another tokenizer",
                                   checkpoint.directory().string()),
               .expected = it == checkpoint.header().strings.end() ? "" : it->second,
               .found = description,
               .next = "name that one with --tokenizer, here or in `longship prepare`"});
}

void read_weights(const Checkpoint& checkpoint, ParameterList& parameters,
                  const std::string& origin) {
  std::string problems;
  for (const Parameter& parameter : parameters.all()) {
    const CheckpointTensor* saved = checkpoint.find(parameter.name);
    if (saved == nullptr) {
      problems += fmt::format("\n    {}: missing", parameter.name);
    } else if (saved->shape != parameter.shape() || saved->dtype != parameter.master.dtype()) {
      problems +=
          fmt::format("\n    {}: {} {} there, {} {} here", parameter.name, dtype_name(saved->dtype),
                      shape_string(saved->shape), dtype_name(parameter.master.dtype()),
                      shape_string(parameter.shape()));
    }
  }
  for (const CheckpointTensor& saved : checkpoint.tensors())
    if (!saved.name.starts_with("optim.") && parameters.find(saved.name) == nullptr)
      problems += fmt::format("\n    {}: not in this model", saved.name);
  if (!problems.empty())
    throw Error(ErrorCode::kConfig,
                {.what = fmt::format("the weights of {} do not fit the model{}", origin, problems),
                 .next = "give `model` the shapes the checkpoint was trained with"});
  for (const HeldTensor& held : held_masters(parameters)) read_held(checkpoint, held);
  parameters.refresh_compute_copies();
}

}  // namespace longship
