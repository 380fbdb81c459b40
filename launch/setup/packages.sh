# shellcheck shell=bash source=launch/setup/machine.sh
# Sourced by the scripts beside it: packages from apt and PyPI.

. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

# Prints those of the Debian packages named that are not installed.
missing_of() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] ||
      printf '%s\n' "$package"
  done
}

apt_get() {
  local sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
    -o Acquire::Retries=2 "$@"
}

# install_packages PACKAGE...: installs those that are missing; ends with an error if it cannot.
install_packages() {
  local missing
  mapfile -t missing < <(missing_of "$@")
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" -eq 0 ] || command -v sudo > /dev/null ||
    fail "these packages are missing, and installing them needs root or sudo:" "${missing[@]}"
  say "installing: ${missing[*]}"
  apt_get update || say "the package lists could not be refreshed; trying with those at hand"
  apt_get install --no-install-recommends -y "${missing[@]}" > /dev/null || true
  mapfile -t missing < <(missing_of "$@")
  [ ${#missing[@]} -eq 0 ] ||
    fail "these packages are needed and could not be installed:" "${missing[@]}" \
      "(apt's own messages are above; on Ubuntu the 'universe' component is needed)"
}

# pip_install REQUIREMENT [OPTION...]: from PyPI into $build_dir/tools, apart from the system's Python.
pip_install() {
  python3 -c 'import ensurepip' 2> /dev/null || install_packages python3-venv
  [ -x "$build_dir/tools/bin/pip" ] || python3 -m venv "$build_dir/tools"
  say "installing from PyPI into $build_dir/tools: $1"
  "$build_dir/tools/bin/pip" -q --disable-pip-version-check install "$@" ||
    fail "$1 is needed and could not be installed from PyPI"
}

# Whether the headers of cudnn-frontend are where CMake looks for them.
has_cudnn_frontend() {
  compgen -G "$build_dir/tools/lib/python3*/site-packages/include/cudnn_frontend.h" > /dev/null ||
    [ -f /usr/include/cudnn_frontend.h ] || [ -f /usr/local/include/cudnn_frontend.h ] ||
    [ -f "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/include/cudnn_frontend.h" ]
}
