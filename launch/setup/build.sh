#!/usr/bin/env bash
# build.sh [TARGET...]: installs what is missing, configures, and builds the targets (default: all)
# in the folder `build` of the repository, or in $LONGSHIP_BUILD_DIR.
# $LONGSHIP_CMAKE_ARGS is handed to cmake, for example "-DLONGSHIP_SANITIZE=address,undefined".
# shellcheck source=launch/setup/machine.sh
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

bash "$root/launch/setup/install.sh"
cmake=$(find_cmake)

mkdir -p "$build_dir"
if [ ! -f "$build_dir/build.ninja" ] || [ -n "${LONGSHIP_CMAKE_ARGS:-}" ]; then
  launcher=()
  ! command -v ccache > /dev/null || launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache \
    -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
  log=$build_dir/configure.log
  # shellcheck disable=SC2086 # LONGSHIP_CMAKE_ARGS is a list of words
  "$cmake" -G Ninja -S "$root" -B "$build_dir" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCMAKE_CXX_COMPILER="$(command -v "$(find_cxx)")" "${launcher[@]}" \
    ${LONGSHIP_CMAKE_ARGS:-} > "$log" 2>&1 || {
    tail -n 40 "$log" >&2
    fail "cmake failed; all of its output is in $log"
  }
  sed -n 's/^-- \(.*building for the CPU.*\)$/==> \1/p' "$log"
fi

jobs=$(count_build_jobs)
log=$build_dir/build.log
say "building with $jobs jobs (output: $log)"
start=$SECONDS
"$cmake" --build "$build_dir" --parallel "$jobs" ${1:+--target "$@"} > "$log" 2>&1 || {
  # Ninja buffers each command's output; the failed ones follow a line FAILED.
  grep -A 40 -m 3 '^FAILED' "$log" >&2 || tail -n 40 "$log" >&2
  fail "the build failed; all of its output is in $log"
}
say "built in $((SECONDS - start)) s"
