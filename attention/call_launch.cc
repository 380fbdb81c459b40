#include "attention/call_launch.h"

#include <algorithm>
#include <map>

namespace longship {
namespace {

constexpr int64_t kTileRows = 128;
// From here on one entry fills the GPU by itself.
constexpr int64_t kOwnLaunchRows = 8192;

int64_t shift_of(const CallEntry& entry) {
  return entry.k_length - entry.q_length;
}

// Leaves out bounds that hide nothing from any entry.
LaunchBand without_idle_bounds(LaunchBand band, const std::vector<CallEntry>& entries) {
  auto hides_none = [&](auto&& hides) {
    return std::none_of(entries.begin(), entries.end(), hides);
  };
  auto shift = [&](const CallEntry& entry) { return band.bottom_right ? shift_of(entry) : 0; };
  if (band.right && hides_none([&](const CallEntry& entry) {
        return *band.right + shift(entry) < entry.k_length - 1;
      }))
    band.right.reset();
  if (band.left && hides_none([&](const CallEntry& entry) {
        return *band.left - shift(entry) < entry.q_length;
      }))
    band.left.reset();
  if (!band.left && !band.right) band.bottom_right = false;
  return band;
}

LaunchBand bottom_right_band(const CallMask& mask) {
  return {.bottom_right = true, .left = mask.left, .right = mask.right};
}

// The band of entries with this shift, from the top left corner where cuDNN can: bounds that lie
// on the other side of its diagonal it does not take.
LaunchBand shifted_band(const CallMask& mask, int64_t shift) {
  LaunchBand band;
  if (mask.left) band.left = *mask.left - shift;
  if (mask.right) band.right = *mask.right + shift;
  const bool fits = band.left.value_or(1) >= 1 && band.right.value_or(0) >= 0;
  return fits ? band : bottom_right_band(mask);
}

CallLaunch launch_of(LaunchBand band, std::vector<CallEntry> entries) {
  CallLaunch launch{.band = without_idle_bounds(band, entries), .entries = std::move(entries)};
  const CallEntry& first = launch.entries.front();
  const bool is_bounded = launch.band.left || launch.band.right;
  launch.dense = launch.entries.size() == 1 && first.q_length % kTileRows == 0 &&
                 first.k_length % kTileRows == 0 && (!is_bounded || shift_of(first) >= 0);
  return launch;
}

// Appends launches for entries that share a band.
void append(std::vector<CallLaunch>& launches, const LaunchBand& band,
            const std::vector<CallEntry>& entries, bool separate) {
  std::vector<CallEntry> together;
  for (const CallEntry& entry : entries) {
    CallLaunch alone = launch_of(band, {entry});
    if (separate || (alone.dense && entry.q_length >= kOwnLaunchRows)) {
      launches.push_back(std::move(alone));
    } else {
      together.push_back(entry);
    }
  }
  if (!together.empty()) launches.push_back(launch_of(band, std::move(together)));
}

std::vector<CallLaunch> backward_launches(const AttentionCall& call, bool separate) {
  std::map<int64_t, std::vector<CallEntry>> by_shift;
  const bool is_full = !call.mask.left && !call.mask.right;
  for (const CallEntry& entry : call.entries)
    by_shift[is_full ? 0 : shift_of(entry)].push_back(entry);
  std::vector<CallLaunch> launches;
  for (const auto& [shift, entries] : by_shift)
    append(launches, shifted_band(call.mask, shift), entries, separate);
  return launches;
}

}  // namespace

std::vector<CallLaunch> forward_launches(const AttentionCall& call) {
  const bool are_squares = std::all_of(call.entries.begin(), call.entries.end(),
                                       [](const CallEntry& entry) { return shift_of(entry) == 0; });
  std::vector<CallLaunch> launches;
  append(launches, are_squares ? shifted_band(call.mask, 0) : bottom_right_band(call.mask),
         call.entries, false);
  return launches;
}

std::vector<CallLaunch> backward_launches(const AttentionCall& call) {
  return backward_launches(call, false);
}

std::vector<CallLaunch> separate_backward_launches(const AttentionCall& call) {
  return backward_launches(call, true);
}

}  // namespace longship
