# shellcheck shell=bash source=launch/setup/machine.sh
# Sourced by the scripts of the examples: their options, and how they start ranks.
# Sets what machine.sh sets, and `longship`, the built program.

. "$(dirname "${BASH_SOURCE[0]}")/../launch/setup/machine.sh"
longship=$build_dir/longship

# read_options "NAME..." ARGUMENT...: sets the variables that --NAME VALUE names; what is no option
# goes into the array `others`. --help prints what the function `usage` does, and ends.
read_options() {
  local known=" $1 "
  shift
  others=()
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        usage
        exit
        ;;
      -*)
        [[ $1 == --* && $known == *" ${1#--} "* ]] || fail "unknown argument: $1" "$(usage)"
        [ $# -ge 2 ] || fail "$1 needs a value"
        printf -v "${1#--}" '%s' "$2"
        shift 2
        ;;
      *)
        others+=("$1")
        shift
        ;;
    esac
  done
}

refuse_others() { [ ${#others[@]} -eq 0 ] || fail "unknown argument: ${others[0]}" "$(usage)"; }

require_positive() {
  [[ ${!1} =~ ^[1-9][0-9]*$ ]] || fail "--$1 must be a positive number, not '${!1}'"
}

# prepare_ranks N: sets the array `mpi`, which starts N of them. They share the cores; with fewer
# cores than ranks, each has one thread and waits politely.
prepare_ranks() {
  [ -x "$longship" ] || fail "$longship is not built" "run launch/setup/build.sh first"
  local threads=$(($(count_cores) / $1))
  export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
  mpi=(mpirun -n "$1" --oversubscribe --bind-to none --mca mpi_yield_when_idle 1)
  [ "$(id -u)" -ne 0 ] || mpi+=(--allow-run-as-root)
}
