#!/usr/bin/env bash
# Trains the hybrids of this folder at tiny size on the text of README.md: the same mixers, options
# and strategies in the same pattern, with few layers, heads and features.
# shellcheck source=examples/ranks.sh
set -euo pipefail
example=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$example/../ranks.sh"

usage() {
  cat << END
usage: tiny.sh [--ranks N] [--steps N] [--out FOLDER] [MODEL ...]
  MODEL         a configuration here, such as qwen3_next (default: all of them)
  --ranks N     ranks that share each sequence (default 2)
  --steps N     optimizer steps (default 40)
  --out FOLDER  where tokens and runs go (default $build_dir/hybrids);
                the runs of an earlier start there are replaced
END
}

# What makes a model tiny, as assignments below `model`. Sizes keep the published proportions where
# they matter: value heads to key heads, value to key size, query to KV heads, the part of a head
# that rotates.
choose_sizes() {
  case $1 in
    qwen3_next)
      sizes=(num_layers=4
        mixer.gated_delta.linear.{num_heads=4,num_key_heads=2,key_size=8,value_size=8}
        mixer.full.attention.{num_heads=8,num_kv_heads=1,head_size=16,rotary_dim=4})
      ;;
    olmo_hybrid)
      sizes=(num_layers=4
        mixer.gated_delta.linear.{num_heads=3,key_size=6,value_size=12}
        mixer.full.attention.{num_heads=3,head_size=8})
      ;;
    kimi_linear)
      sizes=(num_layers=7 "layers=3x kda, latent, 2x kda, latent"
        mixer.kda.linear.{num_heads=2,key_size=8,value_size=8}
        mixer.latent.latent.{num_heads=2,kv_lora_rank=16,qk_nope_head_size=8}
        mixer.latent.latent.{qk_rope_head_size=4,v_head_size=8})
      ;;
    minimax_01)
      sizes=(num_layers=8
        mixer.lightning.linear.{num_heads=4,key_size=8,value_size=8}
        mixer.full.attention.{num_heads=8,num_kv_heads=1,head_size=8,rotary_dim=4})
      ;;
    minicpm_sala)
      sizes=(num_layers=6 "layers=full, 2x lightning, 2x full, lightning"
        mixer.lightning.linear.{num_heads=3,key_size=8,value_size=8}
        mixer.full.attention.{num_heads=4,num_kv_heads=2,head_size=8})
      ;;
    falcon_h1)
      sizes=(num_layers=2
        mixer.mamba2.linear.{num_heads=6,key_size=16,value_size=8}
        mixer.full.attention.{num_heads=4,num_kv_heads=1,head_size=8})
      ;;
    gpt_oss)
      sizes=(num_layers=2 mixer.windowed.attention.window=16
        mixer.{windowed,full}.attention.{num_heads=8,num_kv_heads=1,head_size=8})
      ;;
    *) fail "no tiny sizes for '$1'" "known: $(known_models | xargs)" ;;
  esac
}

known_models() {
  basename -s .textproto "$example"/*.textproto
}

ranks=2
steps=40
out=$build_dir/hybrids
read_options "ranks steps out" "$@"
models=("${others[@]}")
require_positive ranks
require_positive steps
[ ${#models[@]} -gt 0 ] || mapfile -t models < <(known_models)
prepare_ranks "$ranks"

mkdir -p "$out"
cp "$root/README.md" "$out/readme.txt"
"$longship" prepare --input "$out/readme.txt" --output "$out/readme.tokens" --overwrite

for model in "${models[@]}"; do
  choose_sizes "$model"
  say "$model at tiny size, $ranks ranks, $OMP_NUM_THREADS threads each"
  settings=(--set "output_dir=$out/$model" --set "data.tokens=$out/readme.tokens")
  for assignment in vocab_size=0 hidden_size=32 intermediate_size=64 init_std=0.08 "${sizes[@]}"; do
    settings+=(--set "model.$assignment")
  done
  for assignment in train.{context=256,precision=FP32,recompute=NONE} "train.steps=$steps" \
    optim.{learning_rate=4e-3,warmup_steps=1}; do
    settings+=(--set "$assignment")
  done
  rm -rf "${out:?}/$model"
  "${mpi[@]}" "$longship" train "$example/$model.textproto" "${settings[@]}"
done
