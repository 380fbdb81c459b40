#include "runtime/checkpoint/checkpoint_store.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <system_error>

#include "runtime/checkpoint/checkpoint.h"
#include "runtime/io/atomic_directory.h"
#include "runtime/io/atomic_file.h"
#include "runtime/io/file_descriptor.h"
#include "runtime/io/file_error.h"

namespace longship {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "step_";

// Folders directly inside `root`; none when it does not exist.
std::vector<fs::path> subdirectories(const fs::path& root) {
  std::vector<fs::path> result;
  std::error_code error;
  fs::directory_iterator entry(root, error);
  if (error.value() == ENOENT) return result;
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    std::error_code vanished;
    if (entry->is_directory(vanished)) result.push_back(entry->path());
  }
  if (error) throw_file_error("list", root, error.value());
  return result;
}

// Runs `check` on a checkpoint: true, or false when it threw Error for a damaged or unreadable one.
template <class Check>
bool passes(const fs::path& directory, Check&& check) {
  try {
    check(Checkpoint::open(directory));
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::string checkpoint_name(int64_t step) {
  LONGSHIP_CHECK(step >= 0, "step {}", step);
  return fmt::format("{}{:08}", kPrefix, step);
}

std::optional<int64_t> step_of_name(const fs::path& directory) {
  const std::string name =
      directory.has_filename() ? directory.filename() : directory.parent_path().filename();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  int64_t step = -1;
  std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
  return step >= 0 && checkpoint_name(step) == name ? std::optional(step) : std::nullopt;
}

std::vector<CheckpointLocation> list_checkpoints(const fs::path& root) {
  std::vector<CheckpointLocation> result;
  for (const fs::path& directory : subdirectories(root))
    if (const std::optional<int64_t> step = step_of_name(directory))
      result.push_back({*step, directory});
  std::sort(result.begin(), result.end(),
            [](const auto& a, const auto& b) { return a.step > b.step; });
  return result;
}

std::vector<fs::path> prune(const fs::path& root, int64_t keep) {
  LONGSHIP_CHECK(keep >= 1, "keep {} checkpoints", keep);
  const std::vector<CheckpointLocation> all = list_checkpoints(root);
  size_t num_kept = 0;
  for (int64_t good = 0; num_kept < all.size() && good < keep; ++num_kept)
    good += passes(all[num_kept].directory, [](const Checkpoint&) {});
  if (num_kept == all.size()) return {};
  const bool safe = std::any_of(
      all.begin(), all.begin() + static_cast<std::ptrdiff_t>(num_kept), [](const auto& location) {
        return passes(location.directory, [](const Checkpoint& one) { one.verify(); });
      });
  if (!safe) return {};
  std::vector<fs::path> deleted;
  for (size_t i = num_kept; i < all.size(); ++i) {
    remove_directory_atomically(all[i].directory);
    deleted.push_back(all[i].directory);
  }
  return deleted;
}

std::vector<fs::path> remove_orphans(const fs::path& root) {
  std::vector<fs::path> deleted;
  for (const fs::path& directory : subdirectories(root)) {
    const std::string name = directory.filename();
    if (!name.starts_with(kPrefix) || !is_temporary_name(directory)) continue;
    std::error_code error;
    fs::remove_all(directory, error);
    if (error) throw_file_error("delete", directory, error.value());
    deleted.push_back(directory);
  }
  std::sort(deleted.begin(), deleted.end());
  return deleted;
}

}  // namespace longship
