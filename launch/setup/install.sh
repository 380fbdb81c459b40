#!/usr/bin/env bash
# Installs what building and testing Longship needs on Debian 12 and 13, Ubuntu 22.04 and 24.04.
# Run as root or as a user with sudo. What is installed already is left alone, and the network is
# touched only if something is missing. CUDA is not installed by this script;
# where nvcc is, the headers of cudnn-frontend are installed.
# shellcheck source=launch/setup/packages.sh
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

packages=(build-essential ninja-build pkg-config git python3
  libopenmpi-dev openmpi-bin libdnnl-dev libprotobuf-dev protobuf-compiler
  libgtest-dev libbenchmark-dev libcli11-dev libfmt-dev nlohmann-json3-dev libxxhash-dev
  libsentencepiece-dev)
# A cmake from elsewhere does as well.
command -v cmake > /dev/null || packages+=(cmake)

if ! command -v dpkg-query > /dev/null || ! command -v apt-get > /dev/null; then
  say "this is not a Debian or Ubuntu system, so nothing is installed; Longship needs what these" \
    "Debian packages hold: ${packages[*]}"
  exit 0
fi
install_packages "${packages[@]}"

# Ubuntu 22.04: its g++ is version 11 and its cmake 3.22.
[ -n "${CXX:-}" ] || find_cxx > /dev/null || install_packages "g++-$min_gcc"
find_cxx > /dev/null || fail "the C++ compiler must be g++ $min_gcc or clang++ $min_clang, or newer" \
  "CXX is '${CXX:-}' (if unset, g++ and g++-12 to g++-15 are tried)"
find_cmake > /dev/null || pip_install "cmake>=$min_cmake,<4"
find_cmake > /dev/null || fail "cmake $min_cmake or newer is needed"

# Attention on GPUs is built with cuDNN's C++ headers, which no Debian package holds. Without them the
# build is for the CPU only, and says so.
if command -v nvcc > /dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
  has_cudnn_frontend || (pip_install nvidia-cudnn-frontend --no-deps) ||
    say "without cudnn-frontend the build will be for the CPU only"
fi
