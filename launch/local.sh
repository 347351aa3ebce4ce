#!/usr/bin/env bash
# Runs on one machine without accelerators, with one process or, as on a pod,
# several.
#
#   launch/local.sh -- --config=configs/quickstart.py --workdir=runs/quickstart
#   launch/local.sh --processes=2 --devices=4 -- --config=… --workdir=…
#
# --processes=N  number of processes, connected by the loopback address (1)
# --devices=N    number of devices of a process, all of which are this CPU (1)
# --port=PORT    port of the first process, to which the others connect (8476)
# --dry_run      prints the commands without running them
set -euo pipefail
# shellcheck source=launch/commands.sh
source "$(dirname "${BASH_SOURCE[0]}")/commands.sh"

processes=1 devices=1 port=8476 dry_run=''

fail() {
  echo "launch/local.sh: $*" >&2
  exit 2
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

# Passes the signal to all processes, so that they can save.
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
