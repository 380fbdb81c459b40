#!/usr/bin/env bash
# Installs what building and testing Longship needs on Debian 12 and 13, Ubuntu 22.04 and 24.04.
# Run as root or as a user with sudo. What is installed already is left alone, and the network is
# touched only if something is missing. CUDA is not installed by this script.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

packages=(build-essential ninja-build pkg-config git python3
  libopenmpi-dev openmpi-bin libdnnl-dev libprotobuf-dev protobuf-compiler
  libgtest-dev libbenchmark-dev libcli11-dev libfmt-dev nlohmann-json3-dev libxxhash-dev
  libsentencepiece-dev)

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" = installed ]; }

# Prints those of the packages named that are not installed.
missing_of() {
  local package
  for package in "$@"; do
    is_installed "$package" || printf '%s\n' "$package"
  done
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
    -o Acquire::Retries=2 "$@"
}

install_packages() {
  [ $# -gt 0 ] || return 0
  say "installing: $*"
  apt_get update || say "the package lists could not be refreshed; trying with those at hand"
  apt_get install --no-install-recommends -y "$@" > /dev/null || true
  local missing
  missing=$(missing_of "$@")
  [ -z "$missing" ] || fail "these packages are needed and could not be installed:" $missing \
    "(the package manager's own messages are above; on Ubuntu the 'universe' component is needed)"
}

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  say "this is not a Debian or Ubuntu system, so nothing is installed. Longship needs what these"
  say "Debian packages hold: ${packages[*]} cmake"
  exit 0
fi

mapfile -t missing < <(missing_of "${packages[@]}")
command -v cmake > /dev/null || missing+=(cmake)
install_packages "${missing[@]}"

# Ubuntu 22.04: its g++ is version 11 and its cmake 3.22.
find_cxx > /dev/null || install_packages "g++-$min_gcc"
if ! find_cmake > /dev/null; then
  say "cmake is older than $min_cmake: fetching a newer one from PyPI into $build_dir/tools"
  mapfile -t missing < <(missing_of python3-venv)
  install_packages "${missing[@]}"
  { python3 -m venv "$build_dir/tools" && "$build_dir/tools/bin/pip" -q install 'cmake>=3.25,<4'; } ||
    fail "cmake $min_cmake or newer is needed and could not be installed from PyPI"
fi
find_cxx > /dev/null || fail "a C++ compiler is needed: g++ $min_gcc or clang++ $min_clang, or newer" \
  "CXX is '${CXX:-}' (unset: g++ is looked for)"
find_cmake > /dev/null || fail "cmake $min_cmake or newer is needed"
