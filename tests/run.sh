#!/usr/bin/env bash
# Builds and runs all tests; `make test` calls it. Three programs:
#   dyt_tests     everything, optimised, with nvcc where there is one (for one architecture: a kernel
#                 that does not compile fails here although no GPU may be there to run it)
#   kernel_tests  core, layers, models and training again, with the kernels emulated and everything
#                 under AddressSanitizer
#   kernel_tests  of a watched build: the kernels alone, every access of which is checked for races
# Closes with a line "N passed, N failed, N skipped"; exits 1 if any failed.
set -u
cd "$(dirname "$0")/.."
export OMP_WAIT_POLICY=passive  # many tiny loops: threads that spin between them get in each other's way
jobs=$(nproc)
make=(make --no-print-directory -s -j"$jobs")

if [ -n "$(make -s nvcc)" ]; then
  settings=(ARCH=90) folder=build/cuda-90
  echo "Asking nvcc what the hot kernels use ..."
  "${make[@]}" resources || exit 1
else
  settings=(CUDA=0) folder=build/emulated
fi
echo "Building with ${settings[*]} ..."
"${make[@]}" "${settings[@]}" "$folder/dyt" "$folder/dyt_tests" || exit 1
echo "Building with CUDA=0 SANITIZE=address ..."
"${make[@]}" CUDA=0 SANITIZE=address build/emulated-address/kernel_tests || exit 1
echo "Building with CUDA=0 SANITIZE=thread ..."
"${make[@]}" CUDA=0 SANITIZE=thread build/emulated-thread/kernel_tests || exit 1

# Tests of kernels run where kernels do: on the GPU if there is one, and emulated in any case.
filter='-*Kernels*'
if "$folder/dyt" info | grep '^cuda ' | grep -qv 'not available'; then filter='*'; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0
run() {
  "$@" > "$log" 2>&1
  local code=$? p f s
  p=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log")
  f=$(sed -n 's/^\[  FAILED  \] \([0-9]*\) test.*/\1/p' "$log")
  s=$(sed -n 's/^\[  SKIPPED \] \([0-9]*\) test.*/\1/p' "$log")
  if [ $code -ne 0 ] && [ -z "$f" ]; then  # it died before it could count
    f=1
    tail -40 "$log"
  fi
  grep -v -E '^\[( RUN|  +OK|---|===)|^$|^Running main|^Note: |\] [0-9]+ test|FAILED TEST' "$log"
  passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0})) skipped=$((skipped + ${s:-0}))
}
echo "Running $folder/dyt_tests ..."
DYT_BINARY="$PWD/$folder/dyt" run "$folder/dyt_tests" --gtest_filter="$filter"
echo "Running build/emulated-address/kernel_tests ..."
ASAN_OPTIONS=detect_leaks=0 run build/emulated-address/kernel_tests
echo "Running build/emulated-thread/kernel_tests ..."
run build/emulated-thread/kernel_tests --gtest_filter='*Kernels*-*TwoHundredSteps*:*BySanitizer'
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
