// What a run is about to do, in a few lines, before its first step.
#pragma once

#include <string>

#include "data/packing.h"
#include "data/token_file.h"
#include "launch/job.h"
#include "launch/model.h"
#include "parallel/mesh.h"

namespace longship {

// Model size, data, how tokens are split over ranks, memory that weights and optimizer take, and
// which rules of determinism are in force.
std::string run_header(const config::Run& run, const Job& job, const Mesh& mesh, const Model& model,
                       const Packing& packing, const TokenFile& tokens);

}  // namespace longship
