#!/usr/bin/env bash
# Trains two small stacks on associative recall, one with a layer of full attention and one without,
# and prints how many values each recalls.
# shellcheck source=examples/ranks.sh
set -euo pipefail
example=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$example/../ranks.sh"

usage() {
  cat << END
usage: run.sh [--ranks N] [--out FOLDER]
  --ranks N     ranks that share each sequence (default 2)
  --out FOLDER  where tokens and runs go (default $build_dir/recall);
                the runs of an earlier start there are replaced
END
}

ranks=2
out=$build_dir/recall
read_options "ranks out" "$@"
refuse_others
require_positive ranks
prepare_ranks "$ranks"

mkdir -p "$out"
start=$SECONDS
say "documents with 1 to 8 pairs of a key and a value in 64 tokens"
"$longship" prepare --synthetic associative --documents 60000 --lengths 64 --pairs 1,2,4,8 \
  --output "$out/pairs.tokens" --overwrite

for stack in hybrid linear; do
  say "training the $stack stack, $ranks ranks, $OMP_NUM_THREADS threads each"
  rm -rf "${out:?}/$stack"
  "${mpi[@]}" "$longship" train "$example/$stack.textproto" --set "output_dir=$out/$stack" \
    --set "data.tokens=$out/pairs.tokens"
done
for stack in hybrid linear; do
  say "what the $stack stack recalls"
  "${mpi[@]}" "$longship" eval "$out/$stack" --recall --tasks associative --lengths 128,512 \
    --pairs 1,4,8,16,24 --samples 64 --json "$out/$stack.json"
done
say "done in $((SECONDS - start)) s; tokens, runs and results are in $out"
