#!/usr/bin/env bash
# One machine without accelerators: one process, or several as on a pod.
#
#   launch/local.sh -- --config=configs/quickstart.py --workdir=runs/quickstart
#   launch/local.sh --processes=2 --devices=4 -- --config=… --workdir=…
#
# --processes=N  processes on the loopback address, each as a host of its own
# --devices=N    devices that a process sees, all of them this CPU
# --port=PORT    where the processes find the first of them
# --dry_run      prints the commands, runs none
set -euo pipefail

processes=1 devices=1 port=8476 dry_run=''

fail() {
  echo "launch/local.sh: $*" >&2
  exit 2
}

# Prints a command as a shell reads it.
show() {
  local word line='' tick="'" escaped="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_.,:/=@%+-]+$ ]] ||
      word="'${word//$tick/$escaped}'"
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

while (($#)); do
  case $1 in
    --processes=?*) processes=${1#*=} ;;
    --devices=?*) devices=${1#*=} ;;
    --port=?*) port=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --) break ;;
    *) fail "$1: expected one of --processes=N, --devices=N, --port=PORT," \
      '--dry_run, then -- and flags of sqlm_jax.main' ;;
  esac
  shift
done
(($# > 1)) || fail '--: expected, and flags of sqlm_jax.main after it'
shift
for flag in processes devices port; do
  [[ ${!flag} =~ ^[1-9][0-9]*$ ]] ||
    fail "--$flag=${!flag}: expected a whole number above 0"
done

command=(env JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices"
  "${PYTHON:-python}" -m sqlm_jax.main)
if ((processes == 1)); then
  [[ ! $dry_run ]] || { show "${command[@]}" "$@" && exit; }
  show "${command[@]}" "$@" >&2
  exec "${command[@]}" "$@"
fi

command+=("--coordinator_address=127.0.0.1:$port" "--num_processes=$processes")
pids=()
for ((i = 0; i < processes; i++)); do
  line="$(show "${command[@]}" "--process_id=$i" "$@") &"
  [[ ! $dry_run ]] || { echo "$line" && continue; }
  echo "$line" >&2
  "${command[@]}" "--process_id=$i" "$@" &
  pids+=($!)
done
[[ ! $dry_run ]] || exit 0

# All of them are told, and have the time to save.
trap 'interrupted=1; kill -TERM "${pids[@]}" 2> /dev/null || true' INT TERM
failed=0
for pid in "${pids[@]}"; do
  interrupted=1
  while [[ $interrupted ]]; do
    interrupted='' code=0
    wait "$pid" || code=$?
  done
  ((code == 0)) || failed=$code
done
exit "$failed"
