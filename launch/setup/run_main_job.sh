#!/usr/bin/env bash
# run_main_job.sh [--text FILE_OR_FOLDER] [--ranks N]: installs what is missing, builds the
# longship program and runs examples/long_text with it: real English text, a small hybrid trained on
# 2 ranks that share each sequence, then 8 times the context.
# shellcheck source=launch/setup/machine.sh
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/machine.sh"

case " $* " in *" --help "* | *" -h "*) exec bash "$root/examples/long_text/run.sh" --help ;; esac
bash "$root/launch/setup/build.sh" longship
exec bash "$root/examples/long_text/run.sh" "$@"
