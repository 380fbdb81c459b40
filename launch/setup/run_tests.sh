#!/usr/bin/env bash
# run_tests.sh [CTEST_OPTION...]: installs what is missing, builds everything and runs all tests
# that need no GPU. The last line is `N passed, N failed`; the exit code is 0 if all passed.
# shellcheck source=launch/setup/machine.sh
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

bash "$root/launch/setup/build.sh"

ctest=$(find_cmake)
ctest=${ctest%cmake}ctest
log=$build_dir/tests.log
say "running the tests (output: $log)"
start=$SECONDS
status=0
"$ctest" --test-dir "$build_dir" --parallel "$(count_cores)" --label-exclude '^gpu' \
  --no-tests=error --output-on-failure "$@" 2>&1 | tee "$log" || status=$?
say "tests took $((SECONDS - start)) s"

# ctest's summary: "98% tests passed, 1 tests failed out of 57".
summary=$(sed -n 's/^[0-9]*% tests passed, \([0-9]*\) tests failed out of \([0-9]*\)$/\1 \2/p' "$log")
[ -n "$summary" ] || fail "no test was run"
read -r failed total <<< "$summary"
printf '%d passed, %d failed\n' $((total - failed)) "$failed"
[ "$status" -eq 0 ] && [ "$failed" -eq 0 ]
