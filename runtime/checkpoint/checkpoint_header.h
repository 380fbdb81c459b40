// What a checkpoint says about the run, besides its tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace longship {

struct CheckpointHeader {
  int64_t step = 0;              // optimizer steps done
  std::string config_text = {};  // the resolved configuration of the run
  // The training state that is not a tensor, by name: "data.next_sample", "tokens_consumed", ...
  std::map<std::string, int64_t> integers = {};
  std::map<std::string, std::string> strings = {};
  // Ranks along each mesh axis when it was written; reading does not depend on it.
  int64_t dp = 1;
  int64_t sp = 1;
  std::map<std::string, std::string> versions = {};  // of libraries: "longship" -> "0.1.0", ...
};

}  // namespace longship
