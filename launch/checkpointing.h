// Checkpoints of a training run across ranks: every rank writes a part, rank 0 commits, and all
// ranks agree on what happened.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "data/token_file.h"
#include "launch/config.pb.h"
#include "launch/model.h"
#include "optim/adamw.h"
#include "parallel/mesh.h"
#include "runtime/checkpoint/checkpoint.h"

namespace longship {

// The training state that is not a tensor.
struct TrainingState {
  int64_t step = 0;             // optimizer steps done
  int64_t next_sample = 0;      // of the data order
  int64_t tokens_consumed = 0;  // input tokens seen by all ranks
};

struct CheckpointSource {
  const config::Run& run;
  const Mesh& mesh;
  Model& model;
  ParameterExchange& exchange;
  AdamW& optimizer;
  const TokenFile& tokens;
};

// Writes checkpoints/step_N of the run folder and prunes old ones. Collective. When any rank cannot
// write, nothing is left of the attempt and every rank throws the same Error(kStorage).
void save_checkpoint(const CheckpointSource& source, const TrainingState& state);

// Throws Error(kConfig) unless the checkpoint was trained on tokens of the tokenizer with this
// hash.
void check_tokenizer(const Checkpoint& checkpoint, uint64_t hash, const std::string& description);

// A line of warning for people, printed by rank 0.
using Warn = std::function<void(const std::string&)>;

// Restores weights and optimizer from the newest checkpoint in the run folder whose checksums all
// ranks together have verified; damaged ones are reported to `warn` and the one before is used.
// Returns nothing when there is no checkpoint. Throws Error(kCorrupt) when all of them are damaged,
// Error(kConfig) when the checkpoint was made with another model, data or order of samples,
// listing every field that differs. Collective.
std::optional<TrainingState> resume_from_checkpoint(const CheckpointSource& source,
                                                    const Warn& warn);

// The newest undamaged checkpoint of `path`, a run folder or a checkpoint folder, verified.
// Collective over `world`; errors as above, and Error(kStorage) when there is none.
Checkpoint open_verified_checkpoint(const std::string& path, const Group& world, const Warn& warn);

// Takes the weights, and nothing else, of the newest good checkpoint of `path`, a run folder or a
// checkpoint folder. Throws Error(kConfig) where they would not mean the same: another tokenizer,
// other tensors, or fields that changes_from_origin() forbids. What may differ is said to `warn`.
// Collective.
void start_from_weights(const std::string& path, const CheckpointSource& target, const Warn& warn);

// Copies every parameter's weights, or the pieces of them that this rank holds, from a checkpoint.
// Where ranks share out the parameters, ParameterExchange::updated() comes next. Throws
// Error(kConfig) naming tensors that are missing on either side or have another shape or dtype.
void read_weights(const Checkpoint& checkpoint, ParameterList& parameters,
                  const std::string& origin);

}  // namespace longship
