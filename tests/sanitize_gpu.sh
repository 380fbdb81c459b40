#!/usr/bin/env bash
# sanitize_gpu.sh [BUILD_FOLDER [GTEST_FILTER]]: runs gpu_tests under NVIDIA's compute-sanitizer, in
# $SHARDS shards side by side on one GPU. The exit code is 0 if all of $TOOLS find nothing and all
# tests pass. memcheck watches every kernel, those of cuBLAS and cuDNN too; the other tools, which
# take longer, watch those that have "longship" in their name: ours. racecheck leaves out tests with
# matrix products, as it ends with an internal error of its own when a kernel of cuBLAS runs, and
# initcheck those with any library's kernels, as what these write would count as not initialised, and
# those of memory, which hold one stream up while another works: under it, both then wait for ever.
set -euo pipefail

build=$(realpath "${1:-build}")
filter=${2:-*}
shards=${SHARDS:-8}
read -ra tools <<< "${TOOLS:-memcheck racecheck initcheck synccheck}"
# These start programs of their own, need streams that run side by side, or take minutes.
skipped="ProgramOnGpu.*:StreamOnGpu.*:CudnnAttention.EqualsPlainLoopsFor*:TrainingOnGpu.FollowsTheCpu*"
products="MatmulOnGpu.*:LinearOnGpu.*:LinearCrossEntropyOnGpu.*:TokenCrossEntropyOnGpu.*:TrainingOnGpu.*:StepGraphsOnGpu.*"
attention="CudnnAttention.*:SoftmaxGpu.*"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

run_shard() {
  local tool=$1 shard=$2 left_out=$skipped options=(--port $((49152 + 64 * $2)))
  [ "$tool" = memcheck ] || options+=(--kernel-name kns=longship)
  case $tool in
    racecheck) left_out+=:$products ;;
    initcheck) left_out+=":$products:$attention:MemoryOnGpu.*:*LeavesMemoryAlone*" ;;
  esac
  GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard OMP_NUM_THREADS=1 \
    compute-sanitizer --tool "$tool" "${options[@]}" --error-exitcode 99 --print-limit 10 \
    --report-api-errors no --require-cuda-init no \
    "$build/tests/gpu_tests" --gtest_filter="$filter-$left_out" &> "$logs/$tool.$shard"
}

failed=0
for tool in "${tools[@]}"; do
  pids=()
  for ((shard = 0; shard < shards; ++shard)); do
    run_shard "$tool" "$shard" & pids+=($!)
  done
  for shard in "${!pids[@]}"; do
    wait "${pids[shard]}" && continue
    failed=1
    printf '== %s, shard %s of %s\n%s\n' "$tool" "$shard" "$shards" "$(tail -n 60 "$logs/$tool.$shard")"
  done
  echo "$tool: $(cat "$logs/$tool".* | grep -c '^\[ *OK ') tests passed"
done
exit "$failed"
