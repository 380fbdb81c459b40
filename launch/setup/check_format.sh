#!/usr/bin/env bash
# Checks that clang-format leaves every C++ and CUDA source as it is. Versions of clang-format differ
# in what they write, so exactly version 14 is used: the system's, or one from apt or PyPI.
# shellcheck source=launch/setup/packages.sh
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/packages.sh"

find_clang_format() {
  local candidate
  for candidate in clang-format-14 clang-format "$build_dir/tools/bin/clang-format"; do
    if "$candidate" --version 2> /dev/null | grep -q 'version 14\.'; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  return 1
}

if ! find_clang_format > /dev/null; then
  if apt-cache show clang-format-14 > /dev/null 2>&1; then
    install_packages clang-format-14
  else
    pip_install clang-format==14.0.6
  fi
fi
clang_format=$(find_clang_format)

cd "$root"
mapfile -t sources < <(find runtime parallel attention optim data launch tests examples \
  -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' | sort)
[ ${#sources[@]} -gt 0 ] || fail "found no sources in $root"
"$clang_format" --dry-run -Werror "${sources[@]}" ||
  fail "not formatted as .clang-format says; run clang-format -i (version 14) on the files above"
say "clang-format: ${#sources[@]} files are formatted as .clang-format says"
