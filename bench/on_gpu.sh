#!/usr/bin/env bash
# All that only a machine with an NVIDIA GPU can show, for a build that was made elsewhere: copy the
# repository there with what `make portable ARCH=90` made (ARCH: that GPU's), and run this in it.
#
#   bench/on_gpu.sh                    all parts
#   bench/on_gpu.sh tests memcheck     some
#
#   tests       all tests, of the kernels too
#   memcheck    tests of kernels under compute-sanitizer: accesses outside of a buffer
#   racecheck   the same: races in shared memory
#   kernels     dyt bench kernels: every kernel's time, bandwidth or FLOP/s
#   compare     bench/compare.py: training steps against PyTorch, by turns
#   experiments only if it is named: EXPERIMENTS at size SIZE, one process for each number, side by
#               side; records of finished runs are kept, so that a second call goes on
#
# Every part has a time limit and a log in the output folder; the last lines printed are a summary.
# Exits 1 if a part failed, was cut short, or could not run. Settings, by environment variables:
#   OUT=out/gpu                                     the output folder
#   DYT=./dyt_portable  DYT_TESTS=./dyt_portable_tests
#   FILTER='*Kernels*'  SANITIZER_FILTER=...  RACECHECK_FILTER=...    which tests (as --gtest_filter)
#   TESTS_LIMIT=150  MEMCHECK_LIMIT=75  RACECHECK_LIMIT=75  KERNELS_LIMIT=90  COMPARE_LIMIT=270   s
#   COMPARE_MODELS="vit_ti4 ..."  KERNELS=NAME      what is compared and timed; default: everything
#   DYT_ATTENTION=mma                               attention by mma.sync also on Hopper
#   EXPERIMENTS="03 04"  SIZE=full  DATA=synthetic  SEEDS=3  EXPERIMENTS_LIMIT=300
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-out/gpu} DYT=${DYT:-./dyt_portable} DYT_TESTS=${DYT_TESTS:-./dyt_portable_tests}
FILTER=${FILTER:-*}
# One test per kernel, at all its awkward shapes; whole models would repeat the same kernels.
SANITIZER_FILTER=${SANITIZER_FILTER:-*Kernels*Agree*:*Kernels*AddToAGradient*:WarpgroupKernels.*Product-ViT*:ConvNeXt*:ResNet*:VGG*:GPT*:*CpuOver*:Matmul*}
# racecheck breaks down over cuBLASLt's kernels for Hopper (an "Internal Sanitizer Error", after which
# every test of the process fails): the tests of our kernels alone, without products.
RACECHECK_FILTER=${RACECHECK_FILTER:-*Kernels*-Matmul*:Linear*:Mlp*:TiedHead*:PatchEmbedding*:Conv*:ResNet*:VGG*:ViT*:GPT*:Step*:Trainer*:Language*:Masked*:Transformer*:Window*:Generate*:Graph*:Spectral*:*AgreeWithPyTorch*}
mkdir -p "$OUT"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=passive
DYT_BINARY=$(realpath "$DYT")
export DYT_BINARY

# cuBLASLt comes with the CUDA toolkit, or with PyTorch.
if ldd "$DYT" | grep -q 'libcublasLt.*not found'; then
  folder=$(python3 -c 'import os, nvidia
for base in nvidia.__path__:
    for path, _, files in os.walk(base):
        if any(f.startswith("libcublasLt.so") for f in files): print(path)' 2> /dev/null | head -1)
  export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi

summary=() failed=0
note() {  # note PART ok|FAILED words
  summary+=("$(printf '%-10s %-7s %s' "$1" "$2" "$3")")
  [ "$2" = ok ] || failed=1
}

# sharded PARTS LIMIT LOG COMMAND...: runs a gtest program in PARTS processes, each with its share
# of the tests; the log of all in LOG, the worst exit status in $worst.
sharded() {
  local parts=$1 limit=$2 log=$3 i pids=()
  shift 3
  for ((i = 0; i < parts; ++i)); do
    GTEST_TOTAL_SHARDS=$parts GTEST_SHARD_INDEX=$i timeout -k 5 "$limit" "$@" > "$log.$i" 2>&1 &
    pids+=($!)
  done
  worst=0
  for i in "${pids[@]}"; do
    wait "$i" || worst=$(($? > worst ? $? : worst))
  done
  for ((i = 0; i < parts; ++i)); do cat "$log.$i"; done > "$log"
  for ((i = 0; i < parts; ++i)); do rm "$log.$i"; done
}
# Numbers of tests that passed, failed and were skipped, of a log of several processes.
counts() {
  local passed failing skipped
  passed=$(grep -c '^\[       OK \]' "$1")
  failing=$(grep -c '^\[  FAILED  \] .*ms)$' "$1")
  skipped=$(grep -c '^\[  SKIPPED \] .*ms)$' "$1")
  echo "$passed passed, $failing failed, $skipped skipped"
}
cut_short() { if [ "$worst" = 124 ] || [ "$worst" = 137 ]; then echo "; cut short"; fi; }

run_tests() {
  local parts=$(($(nproc) > 16 ? 8 : ($(nproc) + 1) / 2))
  sharded "$parts" "${TESTS_LIMIT:-150}" "$OUT/tests.log" "$DYT_TESTS" --gtest_filter="$FILTER"
  grep -E -B12 '^\[  FAILED  \] .*ms\)$' "$OUT/tests.log" | cut -c1-300 | head -150
  note tests "$([ "$worst" = 0 ] && echo ok || echo FAILED)" "$(counts "$OUT/tests.log")$(cut_short)"
}

sanitize() {  # sanitize TOOL LIMIT FILTER
  local log=$OUT/$1.log only=() errors
  if ! command -v compute-sanitizer > /dev/null; then
    note "$1" FAILED "compute-sanitizer is not on the PATH"
    return
  fi
  # Our kernels, not cuBLASLt's.
  compute-sanitizer --help 2>&1 | grep -q -- '--kernel-name' && only=(--kernel-name kns=dyt)
  sharded 4 "$2" "$log" compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 10 \
    "${only[@]}" "$DYT_TESTS" --gtest_filter="$3"
  errors=$(sed -n -E 's/^=+ (ERROR SUMMARY|RACECHECK SUMMARY): (.*)/\2/p' "$log" | sort | uniq -c |
    sed 's/^ */; processes: /' | tr '\n' ' ')
  grep -E -A6 '^=+ (Invalid|Error|Warning: Race|Error: Race|Program hit)' "$log" | head -60
  note "$1" "$([ "$worst" = 0 ] && echo ok || echo FAILED)" "$(counts "$log")$(cut_short)$errors"
}

run_kernels() {
  # shellcheck disable=SC2086
  timeout -k 5 "${KERNELS_LIMIT:-90}" "$DYT" bench kernels ${KERNELS:-} --device cuda --json \
    2>&1 > "$OUT/kernels.jsonl" | tee "$OUT/kernels.log"
  local status=${PIPESTATUS[0]}
  note kernels "$([ "$status" = 0 ] && echo ok || echo FAILED)" \
    "exit $status; $(wc -l < "$OUT/kernels.jsonl") lines"
}

run_compare() {
  # shellcheck disable=SC2086
  timeout -k 5 "${COMPARE_LIMIT:-270}" python3 bench/compare.py ${COMPARE_MODELS:-} --device cuda \
    --dyt "$DYT" --prepare-limit 150 --rounds 2 --out "$OUT/compare.jsonl" 2>&1 | tee "$OUT/compare.log"
  local status=${PIPESTATUS[0]}
  note compare "$([ "$status" = 0 ] && echo ok || echo FAILED)" "exit $status"
}

run_experiments() {
  local number pids=() numbers=() status i
  for number in ${EXPERIMENTS:-03}; do
    # shellcheck disable=SC2086
    timeout -k 5 "${EXPERIMENTS_LIMIT:-300}" "$DYT" run "$number" --device cuda \
      --size "${SIZE:-full}" --data ${DATA:-synthetic} --seeds "${SEEDS:-3}" \
      --out "$OUT/experiments" > "$OUT/experiment-$number.log" 2>&1 &
    pids+=($!) numbers+=("$number")
  done
  for i in "${!pids[@]}"; do
    wait "${pids[$i]}"
    status=$?
    note "run ${numbers[$i]}" "$([ "$status" = 0 ] && echo ok || echo FAILED)" \
      "exit $status; $(grep -E '^(REPRODUCED|NOT REPRODUCED|INCONCLUSIVE)' "$OUT/experiment-${numbers[$i]}.log" | tail -1)"
  done
}

"$DYT" info
begin=$SECONDS
for part in "${@:-tests memcheck racecheck kernels compare}"; do
  for name in $part; do
    echo "=== $name, after $((SECONDS - begin)) s"
    case $name in
      tests) run_tests ;;
      memcheck) sanitize memcheck "${MEMCHECK_LIMIT:-75}" "$SANITIZER_FILTER" ;;
      racecheck) sanitize racecheck "${RACECHECK_LIMIT:-75}" "$RACECHECK_FILTER" ;;
      kernels) run_kernels ;;
      compare) run_compare ;;
      experiments) run_experiments ;;
      *) echo "bench/on_gpu.sh: unknown part '$name' (see its first lines)" >&2; exit 2 ;;
    esac
  done
done
{
  echo "=== summary, $((SECONDS - begin)) s"
  printf '%s\n' "${summary[@]}"
} | tee "$OUT/summary.txt"
exit $failed
