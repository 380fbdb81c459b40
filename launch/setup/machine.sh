# shellcheck shell=bash
# Sourced by the scripts beside it: what this machine offers, in one place.
# Sets `root` (the repository) and `build_dir`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build_dir=${LONGSHIP_BUILD_DIR:-$root/build}
min_gcc=12
min_clang=15
min_cmake=3.25

say() { printf '==> %s\n' "$*"; }

fail() {
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# Cores that this process may use: the affinity mask, cut down by a container's CPU quota.
count_cores() {
  local cores quota period
  cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
  if [ -r /sys/fs/cgroup/cpu.max ]; then
    read -r quota period < /sys/fs/cgroup/cpu.max
    if [ "$quota" != max ] && [ $(((quota + period - 1) / period)) -lt "$cores" ]; then
      cores=$(((quota + period - 1) / period))
    fi
  fi
  printf '%s\n' "$cores"
}

# Compile jobs that fit: one a core, and 1.5 GiB of free memory for each.
count_build_jobs() {
  local cores fitting
  cores=$(count_cores)
  fitting=$(awk '/^MemAvailable:/ { print int($2 / 1572864) }' /proc/meminfo)
  [ "${fitting:-1}" -ge 1 ] || fitting=1
  [ "$fitting" -lt "$cores" ] && printf '%s\n' "$fitting" || printf '%s\n' "$cores"
}

# True if version $1 is at least version $2.
version_at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

cxx_is_new_enough() {
  local macros clang gcc
  macros=$("$1" -dM -E -x c++ /dev/null 2> /dev/null) || return 1
  clang=$(sed -n 's/^#define __clang_major__ //p' <<< "$macros")
  gcc=$(sed -n 's/^#define __GNUC__ //p' <<< "$macros")
  if [ -n "$clang" ]; then [ "$clang" -ge "$min_clang" ]; else [ "${gcc:-0}" -ge "$min_gcc" ]; fi
}

# Prints the C++ compiler to use: $CXX if set, else the first of g++, g++-12 ... that is new enough.
find_cxx() {
  local candidate
  if [ -n "${CXX:-}" ]; then
    cxx_is_new_enough "$CXX" && printf '%s\n' "$CXX"
    return
  fi
  for candidate in g++ g++-12 g++-13 g++-14 g++-15; do
    if cxx_is_new_enough "$candidate"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}

# Prints the cmake to use: the system's, or else the one that install.sh put into the build folder.
find_cmake() {
  local candidate version
  for candidate in cmake "$build_dir/tools/bin/cmake"; do
    version=$("$candidate" --version 2> /dev/null | sed -n '1s/^cmake version //p')
    if [ -n "$version" ] && version_at_least "$version" "$min_cmake"; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}
