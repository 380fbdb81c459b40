#!/usr/bin/env bash
# The main job, with the longship program already built: gets real English text, trains a small
# byte-level hybrid of linear and full attention on ranks that share each sequence, continues at 8
# times the context with a larger RoPE base, and prints perplexity by position before and after.
# shellcheck source=examples/ranks.sh
set -euo pipefail
example=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$example/../ranks.sh"

usage() {
  cat << END
usage: run.sh [--text FILE_OR_FOLDER] [--ranks N] [--out FOLDER]
  --text FILE_OR_FOLDER  your own UTF-8 text instead of Jane Austen's novels: one file, or a folder
                         whose .txt files are one document each; the last 5% are held out
  --ranks N              ranks that share each sequence (default 2)
  --out FOLDER           where tokens and runs go (default $build_dir/long_text);
                         the runs of an earlier start there are replaced
END
}

text=
ranks=2
out=$build_dir/long_text
read_options "text ranks out" "$@"
refuse_others
require_positive ranks
[ -z "$text" ] || [ -e "$text" ] || fail "--text: no such file or folder: $text"
prepare_ranks "$ranks"

mkdir -p "$out"
start=$SECONDS
say "text"
python3 -B "$example/get_text.py" --out "$out/text" ${text:+--text "$text"}

say "tokens"
for part in train held_out; do
  "$longship" prepare --input "$out/text/$part" --output "$out/$part.tokens" --tokenizer byte \
    --overwrite
done

# train NAME [OPTION...]: runs NAME.textproto into $out/NAME.
train() {
  local name=$1
  shift
  rm -rf "${out:?}/$name"
  "${mpi[@]}" "$longship" train "$example/$name.textproto" --set "output_dir=$out/$name" \
    --set "data.tokens=$out/train.tokens" "$@"
}

evaluate() {
  "${mpi[@]}" "$longship" eval "$out/$1" --tokens "$out/held_out.tokens" --context 4096 \
    --max-samples 24 --json "$out/$1.json" > "$out/$1.eval.log"
}

say "pretraining: context 512, $ranks ranks, $OMP_NUM_THREADS threads each"
train pretrain
say "evaluating on held-out text at context 4096"
evaluate pretrain

say "continuing at 8 times the context: 4096"
train extend --set "train.init_from=$out/pretrain"
say "evaluating again"
evaluate extend

say "perplexity per byte of held-out text, by position in the document"
python3 -B "$example/compare.py" "$out/pretrain.json" "$out/extend.json"

say "a sample: the model continues a line"
"$longship" generate "$out/extend" --prompt "It is a truth universally acknowledged, that" \
  --max-tokens 200 --temperature 0.7
say "done in $((SECONDS - start)) s; tokens, runs and metrics are in $out"
