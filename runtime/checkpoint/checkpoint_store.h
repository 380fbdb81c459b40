// The folder that holds the checkpoints of a run: finding, keeping and deleting them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace longship {

// "step_00001200".
std::string checkpoint_name(int64_t step);
// The inverse, from the last part of a path; none for any other name.
std::optional<int64_t> step_of_name(const std::filesystem::path& directory);

struct CheckpointLocation {
  int64_t step = 0;
  std::filesystem::path directory;
};

// Committed checkpoints, newest step first; a missing root has none. Temporary folders are not
// listed. Nothing is opened. Throws Error(kStorage) when root is unreadable.
std::vector<CheckpointLocation> list_checkpoints(const std::filesystem::path& root);

// Keeps the newest `keep` (>= 1) checkpoints that open without error, and everything newer than
// them, and deletes the rest. Deletes nothing unless one of those kept passes a full verify(), so
// the last good checkpoint always survives. Returns what was deleted.
std::vector<std::filesystem::path> prune(const std::filesystem::path& root, int64_t keep);

// Deletes the temporary folders of checkpoints that were cut short. Call only while no writer is
// at work in `root`. Returns what was deleted.
std::vector<std::filesystem::path> remove_orphans(const std::filesystem::path& root);

}  // namespace longship
